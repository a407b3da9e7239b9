"""Commands do not import torch for ``-h``, ``--version`` and unknown options."""

from pathlib import Path

import pytest

from common.testing.startup import find_heavy_starts
from decore.settings import main_investigate, main_prune

HERE = Path(__file__).resolve().parents[1]
COMMANDS = [["prune_model.py"], ["investigate_policies.py"]]
MODULES = {"agents.py", "models.py", "training_utils.py"}  # of the original code, for import


def test_commands_start_without_torch():
    assert find_heavy_starts([*COMMANDS, ["-m", "decore.pretrained"], ["-m", "decore.paper.tables"]], HERE) == []


def test_list_of_commands_is_complete():
    assert {command[0] for command in COMMANDS} == {file.name for file in HERE.glob("*.py")} - MODULES


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (main_prune, "--epochs -1"),
        (main_prune, "--epochs 3 --policy-epochs 4"),
        (main_prune, "--threshold 1"),
        (main_prune, "--momentum 2"),
        (main_prune, "--agents-learning-rate nan"),
        (main_investigate, "--epochs -1"),
        (main_investigate, "--accuracy-margin 5"),
        (main_investigate, "--entropy -1"),
    ],
)
def test_value_out_of_range_is_rejected_before_torch_import(main, words, capsys, monkeypatch):
    monkeypatch.setattr("decore.command.prune_model", None)
    monkeypatch.setattr("decore.investigate.investigate_policies", None)
    assert main(words.split()) == 2
    assert words.split()[-2] in capsys.readouterr().err


def test_investigation_has_no_compile_option(capsys):
    assert main_investigate(["--compile"]) == 2
    assert "--compile" in capsys.readouterr().err
