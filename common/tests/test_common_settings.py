"""Settings define the parser, config.json and the comparison of two runs."""

import dataclasses
import json

import pytest

from common.cli import positive_int
from common.errors import UserError
from common.settings import (
    REQUIRED,
    build_parser,
    command,
    flatten,
    free_option_names,
    option,
    parse,
    section,
    settings,
    subcommands,
)


@settings
class DataOptions:
    """Data."""

    dataset: str = option("digits", "data set")
    workers: int = option(2, "processes", free=True, type=positive_int)


@settings
class Train:
    """Train something."""

    out: str = option(REQUIRED, "folder", free=True)
    rate: float = option(0.1, "rate", "--learning-rate", hidden=("--lr",))
    steps: list[int] = option([3, 4], "steps", metavar="N")
    shape: list[int] | None = option(None, "shape", nargs=3)
    amp: bool = option(False, "mixed precision")
    augment: bool = option(True, "crop and flip")
    data: DataOptions = section(DataOptions, dataset="cifar10")

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise UserError("--learning-rate: must be at least 0")


@settings
class Show:
    """Show files."""

    files: list[str] = option(REQUIRED, "files", "files", nargs="+")
    how: str = option("all", "how", choices=("all", "some"))


def test_parse_returns_settings():
    found = parse(Train, "--out here --lr 0.5 --steps 1 2 --no-augment --dataset mnist --shape 3 2 1".split())
    assert found == Train(
        out="here", rate=0.5, steps=[1, 2], shape=[3, 2, 1], augment=False, data=DataOptions(dataset="mnist")
    )
    usual = parse(Train, ["--out", "x"])
    assert (usual.rate, usual.steps, usual.amp, usual.augment, usual.data.dataset) == (
        0.1,
        [3, 4],
        False,
        True,
        "cifar10",
    )
    assert parse(Train, ["--out", "x"], defaults={"rate": 3.0, "workers": 7}).data.workers == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        usual.rate = 1.0  # type: ignore[misc]


def test_help_shows_sections_and_defaults_but_no_hidden_options():
    text = build_parser(Train, "train").format_help()
    for part in (
        "Train something.",
        "data:",
        "--learning-rate",
        "(default: cifar10)",
        "--no-augment",
        "(default: [3, 4])",
        "mixed precision\n",
    ):
        assert part in text
    assert "--lr " not in text and "--rate" not in text and "None" not in text
    assert "files [files ...]" in build_parser(Show).format_help()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: --out"),
        ("--out x --steps a", "invalid int value: 'a'"),
        ("--out x --workers 0", "--workers: 0 is not an integer from 1 to 1,000,000"),
        ("--out x --learning-rate -1", "--learning-rate: must be at least 0"),
        ("--out x --learn 1", "unrecognized arguments: --learn 1"),
        ("--out x --shape 1 2", "expected 3 arguments"),
    ],
)
def test_invalid_arguments_are_one_line_with_status_2(words, message, capsys):
    assert command(Train, print, words.split(), "train") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_flat_identity_excludes_free_options():
    values = parse(Train, ["--out", "x", "--workers", "9"])
    everything = flatten(values)
    assert set(everything) == {"out", "rate", "steps", "shape", "amp", "augment", "dataset", "workers"}
    assert set(everything) - set(flatten(values, identity=True)) == {"out", "workers"} == free_option_names(Train)
    assert json.loads(json.dumps(everything)) == everything


def test_subcommands_run_and_print_help(capsys):
    seen = []
    table = {"train": (Train, seen.append), "show": (Show, seen.append)}
    about = {"prog": "tool", "description": "Two commands."}
    assert subcommands(table, ["show", "a", "b", "--how", "some"], **about) == 0
    assert subcommands(table, ["train", "--out", "x"], **about) == 0
    assert seen == [Show(files=["a", "b"], how="some"), Train(out="x")]
    assert subcommands(table, ["other"], **about) == 2 and "invalid choice: 'other'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        subcommands(table, ["train", "-h"], **about)
    assert end.value.code == 0 and "--learning-rate" in capsys.readouterr().out
