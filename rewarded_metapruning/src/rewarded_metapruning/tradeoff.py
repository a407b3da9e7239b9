"""The reward: the search's trade-off between accuracy and MACs (arXiv 2301.11063).

    psi = (A0 / (A0 - a))^2         accuracy coefficient: a is the candidate's top-1, A0 the base accuracy, both in percent
    rho = -ln(F / F0)               efficiency coefficient: F are the candidate's MACs, F0 the base MACs, both in millions
    reward = psi * rho              larger is better

The formula has a pole at a = A0, and for F > F0 it prefers the *lower* accuracy. Here, a margin A0 - a below 0.1 points is
replaced by 0.1, and where rho is negative the reward is rho / psi. The reward is thus finite, increases with a, decreases with
F, and is zero at F = F0.
"""

import math

from common.errors import UserError

MARGIN = 0.1  # percentage points


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
    numbers = {"accuracy": accuracy, "macs": macs, "base accuracy": base_accuracy, "base macs": base_macs}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(f"{name} {value}: must be a finite number")
    if macs <= 0 or base_macs <= 0 or base_accuracy <= 0 or accuracy < 0:
        values = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        raise UserError(f"{values}: MACs and base accuracy must be positive, accuracy at least 0")
    if accuracy_power <= 0 or macs_power <= 0:
        raise UserError(f"powers of the reward {accuracy_power} and {macs_power}: must be positive")
    psi = (base_accuracy / max(base_accuracy - accuracy, MARGIN)) ** accuracy_power
    rho = -math.log(macs / base_macs)
    return psi * rho**macs_power if rho >= 0 else -((-rho) ** macs_power) / psi
