"""Start of the package's commands without torch."""

from pathlib import Path

from common.testing.startup import find_heavy_starts

HERE = Path(__file__).resolve().parents[1]


def test_commands_start_without_torch():
    commands = [
        ["-m", "compare"],
        *(["-m", f"compare.{name}"] for name in ("sweep", "paper.tables")),
    ]
    assert find_heavy_starts(commands, HERE) == []
