"""Every number of every command has a range, and options that exclude each other are rejected before anything is read."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import Range, command_line, positive_int, run
from common.errors import UserError
from common.settings import build_parser, option, settings
from common.training import TrainOptions

ROOT = Path(__file__).resolve().parents[2]
HOMES = [path.parent for path in sorted(ROOT.glob("[!.]*/pyproject.toml"))]

# (settings class, arguments, part of the error)
CONFLICTS = [
    ("common.train.Train", "--milestones 5 1", "--milestones 5 1: must increase"),
    ("common.train.Train", "--milestones 5 5 --schedule multi-step", "--milestones 5 5: must increase"),
    ("common.train.Train", "--milestones 1 5", "--milestones 1 5: not used by --schedule cosine"),
    ("common.train.Train", "--nesterov --momentum 0", "--nesterov: requires momentum"),
    ("common.train.Train", "--epochs 0", "--epochs 0: nothing is trained"),
    ("common.evaluate.Evaluate", "--checkpoint a --weights b", "--checkpoint and --weights exclude each other"),
    ("common.latency.Latency", "--checkpoint a --arch lenet5", "exactly one is required"),
    (
        "common.profile.Profile",
        "--arch lenet5 --plot p.gif",
        "--plot p.gif: give the name of a .png, .svg or .pdf file",
    ),
    ("common.show.Show", "runs --plot curves.gif", "--plot curves.gif: give the name of a .png, .svg or .pdf file"),
    ("common.show.Show", "runs --columns train_loss", "--columns: names the curves of a plot; add --plot FILE"),
    ("compare.settings.Compare", "--checkpoint a --weights b", "--checkpoint and --weights exclude each other"),
    ("compare.settings.Compare", "--report-only --no-report", "--report-only and --no-report exclude each other"),
    ("compare.settings.Compare", "--target-macs 1", "--target-macs: 1 is not a number in [0.01, 1)"),
    ("compare.settings.Compare", "--target-macs 0.5 0.001", "--target-macs: 0.001 is not a number in [0.01, 1)"),
    ("compare.sweep.Sweep", "--out o --values 1 2 1", "--values 1: two values have the folder o/value-1"),
    (
        "decore.settings.PruneModel",
        "--epochs 2 --policy-epochs 3",
        "--policy-epochs 3: must be between 0 and --epochs 2",
    ),
    ("deep_compression.settings.OriginalPipeline", "--lrsch_1 5,1", "--lrsch_1 5 1: must increase"),
    ("deep_compression.settings.OriginalPipeline", "--conv-bits 4", "--conv-bits is given without --fc-bits"),
    ("deep_compression.settings.CompressStages", "--layer =1", "=1 is not of the form NAME=NUMBER"),
    ("deep_compression.settings.CompressStages", "--values 0.5 1.5", "pruning value 1.5"),
    (
        "model_preserving_id.settings.FineTuneCompressed",
        "--pretrained a --world-size 2",
        "--world-size 2: this machine",
    ),
    ("model_preserving_id.settings.FineTuneCompressed", "--pretrained a --rank 1", "--rank 1: machines are numbered"),
    ("model_preserving_id.settings.FineTuneCompressed", "--pretrained a --epochs 2 --start-epoch 3", "--start-epoch 3"),
    (
        "model_preserving_id.settings.FineTuneCompressed",
        "--pretrained a --gpu 0 --device cpu",
        "--gpu 0 and --device cpu",
    ),
    ("model_preserving_id.settings.PruneChannels", "--eps 0.1", "--eps 0.1: not used by --method iditer"),
    ("redundancy_graph.settings.PruneCifar10", "--plot-layer conv", "--plot-layer conv: nothing is plotted"),
    ("rewarded_metapruning.settings.SearchWidths", "--macs-min 2 --macs-max 1", "--macs-min 2: the minimum is above"),
    (
        "rewarded_metapruning.settings.SearchWidths",
        "--macs-max 900000",
        "--macs-max: 900000 is not a number in [0, 100000]",
    ),
    ("rewarded_metapruning.settings.SearchWidths", "--acc-power 300", "--acc-power: 300 is not a number in (0, 20]"),
    ("rewarded_metapruning.settings.TrainPruningNet", "--epochs 0", "--epochs 0: the PruningNet is not trained"),
    ("rewarded_metapruning.settings.TrainChosen", "--epochs 0", "--epochs 0: new weights are not trained"),
]


def test_numbers_out_of_range_and_conflicts_are_one_line_without_torch():
    """One process for all packages, with their sources on the path: settings import neither torch nor NumPy."""
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment["PYTHONPATH"] = os.pathsep.join(str(home / "src") for home in HOMES)
    worker = Path(__file__).with_name("ranges_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), json.dumps(CONFLICTS), *map(str, HOMES)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == [] and not found["torch"] and found["tried"] > 2000 and len(HOMES) == 7


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "shown"),
    [
        (
            Range(int, 1, 1_000_000),
            {"1": 1, "1000000": 1_000_000},
            ["0", "1000001", "1.0", "-inf", ""],
            "1 to 1,000,000",
        ),
        (Range(float, 0, 1, above=True), {"1": 1.0, "1e-9": 1e-9}, ["0", "-0.0", "1.1", "nan"], "(0, 1]"),
        (Range(float, 0, 1e6, below=True), {"0": 0.0}, ["1e6", "inf"], "[0, 1e6)"),
        (Range(float, 0, 1, word="auto"), {"auto": "auto", "1": 1.0}, ["auto,1", "Auto"], "[0, 1], or auto"),
        (Range(int, 1, 9, listed=True), {"1,9": (1, 9), "3": (3,)}, ["1,", "1,10", "1 9"], "1 to 9"),
        (Range(int, 1, 9, named=True), {"conv=1,9": ("conv", (1, 9))}, ["conv", "=3", "conv=", "3"], "1 to 9"),
    ],
)
def test_range_accepts_its_numbers_only(limits, inside, outside, shown):
    assert str(limits) == shown
    assert {text: limits(text) for text in inside} == inside
    for text in outside:
        with pytest.raises(argparse.ArgumentTypeError):
            limits(text)


def test_long_value_is_shortened_in_the_error():
    with pytest.raises(argparse.ArgumentTypeError, match=r"^9{30}\.\.\. \(5,000 characters\) is not an integer from 1"):
        positive_int("9" * 5000)


@settings
class Paint:
    """Paint."""

    coats: int = option(2, "number of coats", type=positive_int)
    color: str = option("red", "color (default: red, as usual)")
    shade: float | None = option(None, "shade (default: none)", type=Range(float, -1, 1))
    file: Path | None = option(None, "file")


def test_help_states_ranges():
    text = build_parser(Paint).format_help()
    assert "number of coats; 1 to 1,000,000 (default: 2)" in text and "shade; [-1, 1] (default: none)" in text
    assert "color (default: red, as usual)" in text


@pytest.mark.parametrize("words", [["--color", ""], ["--color", "  "], ["--file", ""]])
def test_empty_text_is_rejected(words, capsys):
    assert run(lambda argv: print(build_parser(Paint).parse_args(argv)), words) == 2
    assert f"argument {words[0]}: the value is empty" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1e-1", "-.5", "-1"])
def test_negative_number_is_a_value(value):
    assert build_parser(Paint).parse_args(["--shade", value]).shade == float(value)
    assert command_line("x", ["--shade", value]) == f"x --shade {value}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": float("nan")}, r"--gamma nan: must be a number in \(0, 10\]"),
        ({"epochs": 10**23}, "--epochs 100000000000000000000000: must be an integer from 0 to 100,000"),
        ({"warmup_epochs": float("inf")}, "--warmup-epochs inf"),
        ({"milestones": (5, 1)}, "milestones 5 1: not in increasing order"),
    ],
)
def test_training_recipe_is_in_range(values, message):
    with pytest.raises(UserError, match=message):
        TrainOptions(**values)
