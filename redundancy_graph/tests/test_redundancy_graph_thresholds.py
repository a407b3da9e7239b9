"""Thresholds from the command line, and the one that meets a target of MACs."""

import pytest

from common.errors import UserError
from redundancy_graph.settings import label_of, milestones, parse_thresholds
from redundancy_graph.thresholds import find_threshold


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


def macs_of(steps: dict[float, int], dense: int = 1000):
    """MACs as a function of the threshold: those of the first step at or above it."""
    return lambda t: next((macs for at, macs in sorted(steps.items()) if t <= at), dense)


def test_a_target_is_met_from_below():
    steps = {i / 1000: i for i in range(1, 1001)}
    for target in (0.1, 0.3337, 0.5, 0.99):
        found = find_threshold(macs_of(steps), steps, 1000, target)
        assert 0.98 * target * 1000 <= macs_of(steps)(found) <= target * 1000


def test_a_narrow_window_between_hundredths_is_found():
    steps = {0.5: 200, 0.7031: 300, 0.7033: 495, 0.7040: 600, 1.0: 900}
    found = find_threshold(macs_of(steps), steps, 1000, 0.5)
    assert 0.7031 < found <= 0.7033


def test_no_monotony_is_assumed():
    """The only threshold that meets the target lies in a dip which no grid sees and whose neighbours are both above."""
    steps = {0.3: 800, 0.70012: 900, 0.70013: 500, 0.9: 950}
    assert find_threshold(macs_of(steps), steps, 1000, 0.5) == 0.70013


def test_the_best_of_several_is_taken():
    steps = {0.5: 491, 0.6: 499, 0.7: 495, 0.8: 700}
    assert 0.5 < find_threshold(macs_of(steps), steps, 1000, 0.5) <= 0.6


@pytest.mark.parametrize(("macs", "met"), [(489, False), (490, True), (500, True), (501, False)])
def test_the_window_is_98_to_100_percent_of_the_target(macs, met):
    steps = {0.5: 100, 0.6: macs, 0.7: 900}
    if met:
        assert macs_of(steps)(find_threshold(macs_of(steps), steps, 1000, 0.5)) == macs
    else:
        with pytest.raises(UserError, match=f"0.{macs}0"):
            find_threshold(macs_of(steps), steps, 1000, 0.5)


def test_a_target_out_of_reach_is_refused_with_the_nearest():
    steps = {0.6: 300, 0.8: 700}
    with pytest.raises(UserError) as caught:
        find_threshold(macs_of(steps), steps, 1000, 0.5)
    assert "0.3000" in str(caught.value) and "0.7000" in str(caught.value)
    with pytest.raises(UserError, match="nearest are nothing and 0.3000"):
        find_threshold(macs_of(steps), steps, 1000, 0.1)
