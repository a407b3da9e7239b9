"""Thresholds from the command line, names of files, milestones."""

import pytest

from common.errors import UserError
from redundancy_graph.settings import label_of, milestones, parse_thresholds


@pytest.mark.parametrize(
    "words",
    ["[0.7 0.75 0.8]", "0.7 0.75 0.8", "[0.70,0.75,0.80]", "[ 0.7 , 0.75 0.8 ]", "0.7 0.75 0.8 0.7"],
)
def test_brackets_and_commas_are_tolerated(words):
    assert parse_thresholds(words.split()) == [0.7, 0.75, 0.8]


@pytest.mark.parametrize("words", ["nan", "inf", "0", "-0.5", "1.5", "70", "seven", "[]", "0.7 x", "0.7-0.8", ""])
def test_what_is_no_threshold_is_refused(words):
    with pytest.raises(UserError, match="--threshold"):
        parse_thresholds(words.split())


def test_files_are_called_as_in_the_seed():
    assert label_of("vgg16", 0.70, None) == "vgg16-0.7"
    assert label_of("resnet56", 0.65, None) == "resnet56-0.65"
    assert label_of("resnet56", None, 0.5) == "resnet56-macs0.5"


@pytest.mark.parametrize(
    ("epochs", "adjust", "expected"),
    [(90, 30, (30, 60)), (65, 30, (30, 60)), (20, 30, ()), (30, 30, ()), (31, 30, (30,)), (0, 30, ())],
)
def test_milestones(epochs, adjust, expected):
    assert milestones(epochs, adjust) == expected
