"""The reward: the search's trade-off between accuracy and MACs (arXiv 2301.11063).

    psi = (A0 / (A0 - a))^2         accuracy coefficient: a is the candidate's top-1, A0 the base accuracy, both in percent
    rho = -ln(F / F0)               efficiency coefficient: F are the candidate's MACs, F0 the base MACs, both in millions
    reward = psi * rho              larger is better

The formula has a pole at a = A0, and for F > F0 it prefers the *lower* accuracy. Here, a margin A0 - a below 0.1 points is
replaced by 0.1, and where rho is negative the reward is rho / psi. The reward is thus finite, increases with a, decreases with
F, and is zero at F = F0.
"""

import math

from common.cli import Range
from common.errors import UserError

MARGIN = 0.1  # percentage points
REWARD_RANGES = {  # powers of at most 20 keep the reward finite
    "base_accuracy": Range(float, 0, 100, above=True),
    "base_macs": Range(float, 0, 100_000, above=True),  # millions
    "accuracy_power": Range(float, 0, 20, above=True),
    "macs_power": Range(float, 0, 20, above=True),
}


def reward(
    accuracy: float,
    macs: float,
    base_accuracy: float,
    base_macs: float,
    accuracy_power: float = 2.0,
    macs_power: float = 1.0,
) -> float:
    """Compute the reward of a candidate.

    Args:
        accuracy: Top-1 of the candidate, in percent.
        macs: MACs of the candidate, in millions.
        base_accuracy: A0, in percent.
        base_macs: F0, in millions, counted by the same rule as ``macs``.
        accuracy_power: Exponent of psi; the paper's is 2.
        macs_power: Exponent of rho; the paper's is 1.

    Raises:
        UserError: If a value is not finite or out of range.
    """
    check_reward_constants(base_accuracy, base_macs, accuracy_power, macs_power)
    if not (0 <= accuracy < math.inf and 0 < macs < math.inf):  # also rejects nan
        raise UserError(
            f"accuracy {accuracy:g}, macs {macs:g}: must be finite, the accuracy at least 0, the MACs positive"
        )
    psi = (base_accuracy / max(base_accuracy - accuracy, MARGIN)) ** accuracy_power
    rho = -math.log(macs / base_macs)
    return psi * rho**macs_power if rho >= 0 else -((-rho) ** macs_power) / psi


def check_reward_constants(base_accuracy: float, base_macs: float, accuracy_power: float, macs_power: float) -> None:
    """Raise UserError if a constant of the reward is out of range."""
    values = {
        "base_accuracy": base_accuracy,
        "base_macs": base_macs,
        "accuracy_power": accuracy_power,
        "macs_power": macs_power,
    }
    for name, value in values.items():
        REWARD_RANGES[name].check(f"{name.replace('_', ' ')} of the reward", value)
