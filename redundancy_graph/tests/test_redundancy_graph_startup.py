"""Commands do not import torch for ``-h``, ``--version`` and unknown options."""

from pathlib import Path

import pytest

from common.testing.startup import find_heavy_starts
from redundancy_graph.settings import main_cifar10, main_generate, main_imagenet

HERE = Path(__file__).resolve().parent.parent
COMMANDS = [["generate_prune_info.py"], ["prune_cifar10.py"], ["prune_imagenet.py"]]


def test_commands_start_without_torch():
    assert find_heavy_starts([*COMMANDS, ["-m", "redundancy_graph.paper.tables"]], HERE) == []


def test_list_of_commands_is_complete():
    assert {command[0] for command in COMMANDS} == {file.name for file in HERE.glob("*.py")}


@pytest.mark.parametrize("main", [main_cifar10, main_imagenet])
@pytest.mark.parametrize("words", ["--epochs -1", "--momentum 2", "--learning-rate nan", "--workers -1", "--adjust 0"])
def test_value_out_of_range_is_rejected_before_torch_import(main, words, capsys, monkeypatch):
    monkeypatch.setattr("redundancy_graph.prune_and_finetune.prune_and_finetune", None)
    assert main(words.split()) == 2
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--amp", "--compile"])
def test_generation_has_no_training_options(option, capsys):
    assert main_generate([option]) == 2
    assert option in capsys.readouterr().err
