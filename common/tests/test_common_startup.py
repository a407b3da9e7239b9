"""Commands start without torch, and names that their help lists are those that exist."""

from pathlib import Path

from common.models import ARCHITECTURES
from common.options import ARCHITECTURE_NAMES, TrainingOptions, train_options
from common.testing.startup import heavy_starts
from common.training import TrainOptions

HERE = Path(__file__).resolve().parents[1]
NAMES = ("train", "evaluate", "export", "latency", "fetch", "channels", "reporting.results", "paper.tables")


def test_commands_start_without_torch():
    commands = [["-m", f"common.{name}"] for name in NAMES]
    assert heavy_starts([*commands, ["-m", "common.campaign"]], HERE) == []


def test_a_heavy_start_is_found(tmp_path):
    (tmp_path / "slow.py").write_text("import torch, sys\nsys.exit(0)\n")
    (found,) = heavy_starts([["slow.py"]], tmp_path)
    assert "slow.py -h: loads torch" in found


def test_names_of_networks_are_those_of_the_registry():
    assert set(ARCHITECTURE_NAMES) <= set(ARCHITECTURES)
    assert list(ARCHITECTURES)[: len(ARCHITECTURE_NAMES)] == list(ARCHITECTURE_NAMES)


def test_usual_training_is_the_usual_recipe():
    assert train_options(TrainingOptions()) == TrainOptions()
