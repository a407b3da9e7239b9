"""Targets: tolerance, searches and error message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.target import Target


def scan(steps: dict[float, int], fraction: float) -> float:
    return Target(fraction).scan(lambda t: macs_of(steps)(t) / 1000, sorted(steps), "no threshold")


def bisect(fractions: list[float], fraction: float) -> float:
    return Target(fraction).bisect(fractions, lambda candidate: candidate, "no pruning of these agents")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_invalid_fraction_raises(fraction):
    with pytest.raises(UserError, match="not in"):
        Target(fraction)


@given(st.floats(0.01, 1.0), st.floats(0.0, 1.2))
def test_target_is_met_from_98_to_100_percent(fraction, found):
    assert Target(fraction).is_met_by(found) == (0.98 * fraction <= found <= fraction)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60, unique=True), st.floats(0.01, 1.0))
def test_bisection_returns_largest_fit_or_raises_with_neighbors(fractions, fraction):
    fractions.sort()
    fits = [f for f in fractions if f <= fraction]
    if fits and Target(fraction).is_met_by(fits[-1]):
        assert bisect(fractions, fraction) == fits[-1]
        return
    near = [*fits[-1:], *[f for f in fractions if f > fraction][:1]]
    with pytest.raises(UserError, match=" and ".join(f"{f:.4f}" for f in near)):
        bisect(fractions, fraction)


def test_unreachable_target_message_names_option_window_and_axis():
    with pytest.raises(UserError) as caught:
        Target(0.05, "bytes").raise_unreachable("no density", [0.04, "0.0610 (at 3 bits)"])
    assert str(caught.value) == (
        "--target-bytes 0.05: no density keeps 0.049 to 0.05 of the bytes; the nearest keep 0.0400 and 0.0610 (at 3 bits)"
    )


def macs_of(steps: dict[float, int], dense: int = 1000):
    """Return a function of the threshold: the MACs at the first step at or above it."""
    return lambda t: next((macs for at, macs in sorted(steps.items()) if t <= at), dense)


def test_scan_meets_target_from_below():
    steps = {i / 1000: i for i in range(1, 1001)}
    for target in (0.1, 0.3337, 0.5, 0.99):
        found = scan(steps, target)
        assert 0.98 * target * 1000 <= macs_of(steps)(found) <= target * 1000


def test_scan_finds_narrow_window_between_hundredths():
    steps = {0.5: 200, 0.7031: 300, 0.7033: 495, 0.7040: 600, 1.0: 900}
    found = scan(steps, 0.5)
    assert 0.7031 < found <= 0.7033


def test_scan_does_not_assume_monotonicity():
    """The only threshold that meets the target is in a dip between grid points whose values are above the target."""
    steps = {0.3: 800, 0.70012: 900, 0.70013: 500, 0.9: 950}
    assert scan(steps, 0.5) == 0.70013


def test_scan_returns_largest_fraction_that_meets_target():
    steps = {0.5: 491, 0.6: 499, 0.7: 495, 0.8: 700}
    assert 0.5 < scan(steps, 0.5) <= 0.6


@pytest.mark.parametrize(("macs", "is_met"), [(489, False), (490, True), (500, True), (501, False)])
def test_scan_meets_98_to_100_percent_of_target(macs, is_met):
    steps = {0.5: 100, 0.6: macs, 0.7: 900}
    if is_met:
        assert macs_of(steps)(scan(steps, 0.5)) == macs
    else:
        with pytest.raises(UserError, match=f"0.{macs}0"):
            scan(steps, 0.5)


def test_unreachable_target_raises_with_nearest():
    steps = {0.6: 300, 0.8: 700}
    with pytest.raises(UserError) as caught:
        scan(steps, 0.5)
    assert "0.3000" in str(caught.value) and "0.7000" in str(caught.value)
    with pytest.raises(UserError, match="nearest keep nothing and 0.3000"):
        scan(steps, 0.1)
