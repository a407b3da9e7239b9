"""``-h``, ``--version`` and invalid options of every command answer without torch."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.settings import parse
from common.testing.startup import heavy_starts
from deep_compression import commands
from deep_compression.paper.courses import COURSES
from deep_compression.paper.settings import LENETS, Cifar10
from deep_compression.settings import Compress, Encode, Pipeline, Prune, Share

HOME = Path(__file__).parents[1]
MODULES = ("mnist", "choice", "cifar10", "figures", "tables")
COMMANDS = [
    ["main.py"],
    ["-m", "deep_compression"],
    *(["-m", "deep_compression", stage] for stage in commands.COMMANDS),
    *(["-m", f"deep_compression.paper.{name}"] for name in MODULES),
]


def test_commands_start_without_torch():
    assert heavy_starts(COMMANDS, HOME) == []


def test_every_command_is_listed():
    source = HOME / "src" / "deep_compression"
    files = [file for file in source.rglob("*.py") if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]
    mains = {str(file.relative_to(source)) for file in files}
    assert mains == {"__main__.py", *(f"paper/{name}.py" for name in MODULES)}
    assert [[file.name] for file in HOME.glob("*.py")] == COMMANDS[:1]


def test_lenets_are_those_of_the_courses():
    assert set(LENETS) == set(COURSES)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Prune, "--values 1.5"),
        (Prune, "--momentum 2"),
        (Share, "--fc-bits 33"),
        (Compress, "--share-epochs -1"),
        (Encode, "--index-bits 17"),
        (Pipeline, "--iter 1"),
        (Pipeline, "--bias-bits 40"),
        (Cifar10, "--weights none --bits 40"),
    ],
)
def test_values_out_of_range_are_rejected_while_parsing(command, words):
    with pytest.raises(UserError):
        parse(command, words.split())
