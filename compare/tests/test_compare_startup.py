"""Commands of this package start without torch."""

from pathlib import Path

from common.testing.startup import heavy_starts

HERE = Path(__file__).resolve().parents[1]


def test_commands_start_without_torch():
    commands = [["-m", "compare"], *(["-m", f"compare.{name}"] for name in ("sweep", "paper.picture", "paper.tables"))]
    assert heavy_starts(commands, HERE) == []
