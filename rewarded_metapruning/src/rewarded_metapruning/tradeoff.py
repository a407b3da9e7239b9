"""The reward: how the search trades accuracy for MACs (arXiv 2301.11063).

    psi = (A0 / (A0 - a))^2         accuracy coefficient: a the candidate's top-1, A0 the base accuracy, both in percent
    rho = -ln(F / F0)               efficiency coefficient: F the candidate's MACs, F0 the base MACs, both in millions
    reward = psi * rho              larger is better

The formula has a pole at a = A0, and beyond F0 it prefers the *worse* accuracy. Here a margin A0 - a below 0.1 points counts
as 0.1, and where rho is negative the reward is rho / psi: everywhere finite, rising with a, falling with F, zero at F = F0.
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
    """The reward of a candidate; the exponents of psi and rho are the knobs of the trade-off, 2 and 1 the paper's.

    accuracy, base_accuracy: percent. macs, base_macs: millions, counted by one rule. Raises UserError for values that make
    no sense.
    """
    numbers = {"accuracy": accuracy, "macs": macs, "base accuracy": base_accuracy, "base macs": base_macs}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(f"{name} {value}: a finite number is needed")
    if macs <= 0 or base_macs <= 0 or base_accuracy <= 0 or accuracy < 0:
        raise UserError(f"MACs and base accuracy must be positive, accuracy not negative: {numbers}")
    if accuracy_power <= 0 or macs_power <= 0:
        raise UserError(f"powers of the reward must be positive, not {accuracy_power} and {macs_power}")
    psi = (base_accuracy / max(base_accuracy - accuracy, MARGIN)) ** accuracy_power
    rho = -math.log(macs / base_macs)
    return psi * rho**macs_power if rho >= 0 else -((-rho) ** macs_power) / psi
