"""The reward: its formula and properties, and the logged searches."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from rewarded_metapruning import reward
from rewarded_metapruning.paper.published import LOGGED
from rewarded_metapruning.ranking import RewardSettings

accuracies = st.floats(0, 100)
costs = st.floats(1, 10_000)


def test_reward_matches_worked_values():
    assert reward(55.22, 1950.24, 70.6, 4100) == pytest.approx(21.0716 * 0.743035, abs=1e-3)
    assert reward(54.16, 199.83, 70.6, 4100) == pytest.approx(55.7181, abs=1e-3)
    assert reward(54.16, 199.83, 70.6, 314) == pytest.approx(8.3344, abs=1e-3)


@pytest.mark.parametrize("arch", LOGGED)
def test_recomputed_rewards_keep_logged_order(arch):
    """Accuracies are logged with two decimals, which changes rewards by up to 0.01 (ResNet-50) or 0.03 (MobileNetV2)."""
    scored = [reward(top1, macs, 70.6, 4100) for macs, top1, _ in LOGGED[arch]]
    for recomputed, (_, _, logged) in zip(scored, LOGGED[arch], strict=True):
        assert recomputed == pytest.approx(logged, abs=0.01 if arch == "resnet50" else 0.03)
    assert max(scored) == scored[0]
    order = sorted(range(len(scored)), key=lambda i: -scored[i])
    apart = [
        (i, j)
        for i in range(len(scored))
        for j in range(i)
        if abs(LOGGED[arch][i][2] - LOGGED[arch][j][2]) > (0.02 if arch == "resnet50" else 0.06)
    ]
    assert apart
    for later, earlier in apart:  # differences larger than the rounding error keep the logged order
        assert order.index(earlier) < order.index(later)


def test_base_macs_change_the_ranking():
    """With the base MACs of the published code instead of its log, another MobileNetV2 candidate is the best."""
    cheap, accurate = (148.22, 51.88), (203.50, 54.26)
    assert reward(accurate[1], accurate[0], 70.6, 4100) > reward(cheap[1], cheap[0], 70.6, 4100)
    assert reward(accurate[1], accurate[0], 70.6, 314) < reward(cheap[1], cheap[0], 70.6, 314)


@given(a=accuracies, b=accuracies, macs=costs, base=costs)
@settings(max_examples=200, deadline=None)
def test_reward_increases_with_accuracy(a, b, macs, base):
    low, high = sorted((a, b))
    worse, better = reward(low, macs, 70.6, base), reward(high, macs, 70.6, base)
    assert math.isfinite(worse) and math.isfinite(better)
    assert worse <= better
    if high < 70.4 and high - low > 1e-3 and abs(math.log(macs / base)) > 1e-6:
        assert worse < better


@given(accuracy=accuracies, first=costs, second=costs, base=costs)
@settings(max_examples=200, deadline=None)
def test_reward_decreases_with_macs(accuracy, first, second, base):
    low, high = sorted((first, second))
    assert reward(accuracy, low, 70.6, base) >= reward(accuracy, high, 70.6, base)
    if high > low * 1.001:
        assert reward(accuracy, low, 70.6, base) > reward(accuracy, high, 70.6, base)


def test_reward_is_zero_at_base_and_finite_at_pole():
    assert reward(50, 314, 70.6, 314) == 0
    assert reward(70.5, 100, 70.6, 200) == pytest.approx(498_436 * math.log(2), rel=1e-6)
    assert reward(70.6, 100, 70.6, 200) == reward(99, 100, 70.6, 200) == pytest.approx(498_436 * math.log(2), rel=1e-6)
    assert reward(50, 628, 70.6, 314) < 0


def test_powers_are_exponents():
    assert reward(50, 100, 100, 200, accuracy_power=1) == pytest.approx(2 * math.log(2))
    assert reward(50, 100, 100, 200, accuracy_power=3, macs_power=2) == pytest.approx(8 * math.log(2) ** 2)


@pytest.mark.parametrize(
    "invalid",
    [
        (math.nan, 100, 70, 200),
        (50, math.inf, 70, 200),
        (50, 0, 70, 200),
        (50, 100, 0, 200),
        (50, 100, 70, -1),
        (-1, 100, 70, 200),
        (50, 100, 70, 200, 0),
        (50, 100, 70, 200, 2, -1),
    ],
)
def test_invalid_values_raise(invalid):
    with pytest.raises(UserError):
        reward(*invalid)


@pytest.mark.parametrize("power", [math.nan, math.inf, 300.0, 1e9, 0.0, -1.0])
def test_power_out_of_range_raises_before_candidates_are_evaluated(power):
    for powers in ({"accuracy_power": power}, {"macs_power": power}):
        with pytest.raises(UserError, match=r"power of the reward .*: must be a number in \(0, 20\]"):
            RewardSettings(100.0, 1.8, **powers)


def test_largest_powers_give_finite_rewards():
    extreme = RewardSettings(100.0, 100_000.0, 20.0, 20.0)
    assert math.isfinite(extreme.reward(100.0, 1e-6)) and math.isfinite(extreme.reward(0.0, 1e12))
