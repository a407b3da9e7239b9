"""A target: its window, its searches, its message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.target import Target


def scan(steps: dict[float, int], fraction: float) -> float:
    return Target(fraction).scan(lambda t: macs_of(steps)(t) / 1000, sorted(steps), "no threshold")


def bisect(fractions: list[float], fraction: float) -> float:
    return Target(fraction).bisect(fractions, lambda knob: knob, "no cut of these agents")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_target_is_a_fraction(fraction):
    with pytest.raises(UserError, match="not in"):
        Target(fraction)


@given(st.floats(0.01, 1.0), st.floats(0.0, 1.2))
def test_the_window_is_98_to_100_percent(fraction, found):
    assert Target(fraction).met(found) == (0.98 * fraction <= found <= fraction)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60, unique=True), st.floats(0.01, 1.0))
def test_bisection_finds_the_largest_that_fits_or_names_the_neighbors(fractions, fraction):
    fractions.sort()
    fits = [f for f in fractions if f <= fraction]
    if fits and Target(fraction).met(fits[-1]):
        assert bisect(fractions, fraction) == fits[-1]
        return
    near = [*fits[-1:], *[f for f in fractions if f > fraction][:1]]
    with pytest.raises(UserError, match=" and ".join(f"{f:.4f}" for f in near)):
        bisect(fractions, fraction)


def test_the_message_names_the_option_the_window_and_the_axis():
    with pytest.raises(UserError) as caught:
        Target(0.05, "bytes").refuse("no density", [0.04, "0.0610 (at 3 bits)"])
    assert str(caught.value) == (
        "--target-bytes 0.05: no density keeps 0.049 to 0.05 of the bytes; the nearest keep 0.0400 and 0.0610 (at 3 bits)"
    )


def macs_of(steps: dict[float, int], dense: int = 1000):
    """MACs as a function of the threshold: those of the first step at or above it."""
    return lambda t: next((macs for at, macs in sorted(steps.items()) if t <= at), dense)


def test_a_target_is_met_from_below():
    steps = {i / 1000: i for i in range(1, 1001)}
    for target in (0.1, 0.3337, 0.5, 0.99):
        found = scan(steps, target)
        assert 0.98 * target * 1000 <= macs_of(steps)(found) <= target * 1000


def test_a_narrow_window_between_hundredths_is_found():
    steps = {0.5: 200, 0.7031: 300, 0.7033: 495, 0.7040: 600, 1.0: 900}
    found = scan(steps, 0.5)
    assert 0.7031 < found <= 0.7033


def test_no_monotony_is_assumed():
    """The only threshold that meets the target lies in a dip which no grid sees and whose neighbours are both above."""
    steps = {0.3: 800, 0.70012: 900, 0.70013: 500, 0.9: 950}
    assert scan(steps, 0.5) == 0.70013


def test_the_best_of_several_is_taken():
    steps = {0.5: 491, 0.6: 499, 0.7: 495, 0.8: 700}
    assert 0.5 < scan(steps, 0.5) <= 0.6


@pytest.mark.parametrize(("macs", "met"), [(489, False), (490, True), (500, True), (501, False)])
def test_the_window_is_98_to_100_percent_of_the_target(macs, met):
    steps = {0.5: 100, 0.6: macs, 0.7: 900}
    if met:
        assert macs_of(steps)(scan(steps, 0.5)) == macs
    else:
        with pytest.raises(UserError, match=f"0.{macs}0"):
            scan(steps, 0.5)


def test_a_target_out_of_reach_is_refused_with_the_nearest():
    steps = {0.6: 300, 0.8: 700}
    with pytest.raises(UserError) as caught:
        scan(steps, 0.5)
    assert "0.3000" in str(caught.value) and "0.7000" in str(caught.value)
    with pytest.raises(UserError, match="nearest keep nothing and 0.3000"):
        scan(steps, 0.1)
