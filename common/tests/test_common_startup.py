"""Commands start without torch, and the names listed in their help exist."""

from pathlib import Path

from common.models import ARCHITECTURES
from common.options import ARCHITECTURE_NAMES, TrainingOptions, train_options
from common.testing.startup import find_heavy_starts
from common.training import TrainOptions

HERE = Path(__file__).resolve().parents[1]
NAMES = (
    "command_line",
    "compress_command",
    "train",
    "evaluate",
    "export",
    "latency",
    "profile",
    "sensitivity",
    "show",
    "fetch",
    "channels",
    "reporting.results",
    "paper.tables",
    "paper.reach",
)


def test_commands_start_without_torch():
    commands = [["-m", f"common.{name}"] for name in NAMES]
    assert find_heavy_starts([*commands, ["-m", "common.campaign"]], HERE) == []


def test_heavy_start_is_reported(tmp_path):
    (tmp_path / "slow.py").write_text("import torch, sys\nsys.exit(0)\n")
    (found,) = find_heavy_starts([["slow.py"]], tmp_path)
    assert "slow.py -h: loads torch" in found


def test_listed_architectures_are_registered():
    assert set(ARCHITECTURE_NAMES) <= set(ARCHITECTURES)
    assert list(ARCHITECTURES)[: len(ARCHITECTURE_NAMES)] == list(ARCHITECTURE_NAMES)


def test_default_training_options_are_default_recipe():
    assert train_options(TrainingOptions()) == TrainOptions()
