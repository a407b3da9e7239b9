"""Thresholds of the command line, file names, milestones."""

import pytest

from common.errors import UserError
from redundancy_graph.settings import SelectionOptions, milestones, parse_thresholds, run_label


@pytest.mark.parametrize(
    "words",
    ["[0.7 0.75 0.8]", "0.7 0.75 0.8", "[0.70,0.75,0.80]", "[ 0.7 , 0.75 0.8 ]", "0.7 0.75 0.8 0.7"],
)
def test_brackets_and_commas_are_accepted(words):
    assert parse_thresholds(words.split()) == [0.7, 0.75, 0.8]


@pytest.mark.parametrize("words", ["nan", "inf", "0", "-0.5", "1.5", "70", "seven", "[]", "0.7 x", "0.7-0.8", ""])
def test_invalid_threshold_raises(words):
    with pytest.raises(UserError, match="--threshold"):
        parse_thresholds(words.split())


def test_file_names_equal_original_code():
    assert run_label("vgg16", 0.70, SelectionOptions()) == "vgg16-0.7"
    assert run_label("resnet56", 0.65, SelectionOptions()) == "resnet56-0.65"
    assert run_label("resnet56", None, SelectionOptions(target_macs=0.5)) == "resnet56-macs0.5"
    assert run_label("resnet56", None, SelectionOptions(target_latency=0.6)) == "resnet56-latency0.6"


@pytest.mark.parametrize(
    ("epochs", "adjust", "expected"),
    [(90, 30, (30, 60)), (65, 30, (30, 60)), (20, 30, ()), (30, 30, ()), (31, 30, (30,)), (0, 30, ())],
)
def test_milestones_are_multiples_of_adjust(epochs, adjust, expected):
    assert milestones(epochs, adjust) == expected
