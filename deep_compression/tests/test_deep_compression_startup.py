"""``-h``, ``--version`` and invalid options of every command do not import torch."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.settings import parse
from common.testing.startup import find_heavy_starts
from deep_compression import commands
from deep_compression.paper.mnist_recipes import MNIST_RECIPES
from deep_compression.paper.settings import LENETS, Cifar10
from deep_compression.settings import CompressStages, EncodeStage, OriginalPipeline, PruneStage, QuantizeStage

HOME = Path(__file__).parents[1]
MODULES = ("mnist", "select_settings", "cifar10", "make_plots", "tables")
COMMANDS = [
    ["main.py"],
    ["-m", "deep_compression"],
    *(["-m", "deep_compression", stage] for stage in commands.COMMANDS),
    *(["-m", f"deep_compression.paper.{name}"] for name in MODULES),
]


def test_commands_start_without_torch():
    assert find_heavy_starts(COMMANDS, HOME) == []


def test_all_commands_are_listed():
    source = HOME / "src" / "deep_compression"
    files = [file for file in source.rglob("*.py") if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]
    mains = {str(file.relative_to(source)) for file in files}
    assert mains == {"__main__.py", *(f"paper/{name}.py" for name in MODULES)}
    assert [[file.name] for file in HOME.glob("*.py")] == COMMANDS[:1]


def test_lenets_equal_mnist_recipes():
    assert set(LENETS) == set(MNIST_RECIPES)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (PruneStage, "--values 1.5"),
        (PruneStage, "--momentum 2"),
        (QuantizeStage, "--fc-bits 33"),
        (CompressStages, "--quantize-epochs -1"),
        (EncodeStage, "--index-bits 17"),
        (OriginalPipeline, "--iter 1"),
        (OriginalPipeline, "--bias-bits 40"),
        (Cifar10, "--weights none --bits 40"),
    ],
)
def test_invalid_values_raise_while_parsing(command, argv):
    with pytest.raises(UserError):
        parse(command, argv.split())
