"""What a network shall be compressed to: one window, one search and one message for all methods."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import lcm
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from tqdm import tqdm

from common.errors import UserError

if TYPE_CHECKING:
    from common.channels import ChannelGroup
    from common.cost import WidthCost

Axis = Literal["macs", "bytes", "latency"]
K = TypeVar("K")
TOLERANCE = 0.02  # a target is met within [1 - TOLERANCE, 1] of it
STEPS = 40  # of a bisection
WORDS = {"macs": "MACs", "bytes": "bytes", "latency": "latency"}


@dataclass(frozen=True)
class Target:
    """The fraction of the dense network that stays: of its MACs, of its file's bytes, or of its latency.

    Raises UserError unless ``fraction`` is in (0, 1].
    """

    fraction: float
    axis: Axis = "macs"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UserError(f"a target of {self.fraction:g} of the {WORDS[self.axis]} is not in (0, 1]")

    @property
    def least(self) -> float:
        """The smallest fraction that meets the target."""
        return (1 - TOLERANCE) * self.fraction

    def met(self, fraction: float) -> bool:
        """Whether a fraction lies within [0.98, 1.00] of the target."""
        return self.least <= fraction <= self.fraction

    def refuse(self, what: str, near: Iterable[str | float]) -> NoReturn:
        """Raise the UserError of every search. what: "no threshold". near: fractions that can be reached, or words with them."""
        found = [value if isinstance(value, str) else f"{value:.4f}" for value in near]
        nearest = f"; the nearest keep {' and '.join(found)}" if found else ""
        window = f"{self.least:.4g} to {self.fraction:.4g} of the {WORDS[self.axis]}"
        raise UserError(f"--target-{self.axis} {self.fraction:g}: {what} keeps {window}{nearest}")

    def bisect(self, knobs: Sequence[K], fraction_at: Callable[[K], float], what: str) -> K:
        """The last of the knobs that fits, where ``fraction_at`` rises from knob to knob. Raises UserError if it misses."""
        above = bisect_right(knobs, self.fraction, key=fraction_at)
        if above == 0 or not self.met(fraction_at(knobs[above - 1])):
            self.refuse(what, [fraction_at(knobs[i]) for i in (above - 1, above) if 0 <= i < len(knobs)])
        return knobs[above - 1]

    def scan(
        self,
        fraction_at: Callable[[float], float],
        values: Sequence[float],
        what: str,
        spacing: float = 0.01,
        describe: Callable[[float, float], str] = lambda knob, fraction: f"{fraction:.4f} (at {knob!r})",
    ) -> float:
        """The knob in (0, 1] whose fraction meets the target and is largest, where fractions are not monotone.

        A grid of ``spacing`` first, then finer and finer ones where two neighbors lie on both sides of the target, and at last
        every value there is.

        Args:
            values: All values at which anything changes, ascending.
            describe: Words for a knob and its fraction, for the message.

        Raises:
            UserError: With the nearest fractions if no knob meets the target.
        """
        found: dict[float, float] = {}

        def best_of(knobs: Iterable[float]) -> float | None:
            new = [knob for knob in knobs if knob not in found]
            found.update({knob: fraction_at(knob) for knob in tqdm(new, desc="search", disable=None, leave=False)})
            good = [knob for knob, fraction in found.items() if self.met(fraction)]
            return max(good, key=lambda knob: (found[knob], knob)) if good else None

        smallest = 1 / max(1, len(values))
        best = best_of(round(i * spacing, 10) for i in range(1, round(1 / spacing) + 1))
        while best is None and spacing > smallest / 10:
            spacing /= 10
            best = best_of(self._between(found, spacing))
        if best is None:
            best = best_of(value for value in values if 0 < value <= 1)
        if best is None:
            below = max((knob for knob in found if found[knob] <= self.fraction), key=found.__getitem__, default=None)
            above = min((knob for knob in found if found[knob] > self.fraction), key=found.__getitem__, default=None)
            self.refuse(what, ["nothing" if knob is None else describe(knob, found[knob]) for knob in (below, above)])
        return best

    def _between(self, found: Mapping[float, float], spacing: float) -> list[float]:
        """A finer grid wherever two neighboring knobs have fractions on both sides of the target."""
        grid: list[float] = []
        for low, high in pairwise(sorted(found)):
            if min(found[low], found[high]) <= self.fraction <= max(found[low], found[high]):
                steps = math.ceil((high - low) / spacing - 1e-9)
                grid += [round(low + i * spacing, 10) for i in range(1, steps)]
        return grid


def uniform_widths(
    groups: Sequence[ChannelGroup], cost: WidthCost, target: Target, round_to: int = 1, exact: bool = True
) -> dict[str, int]:
    """{group: width}, equal fractions of all groups whose MACs meet the target.

    The largest fraction that fits, rounded down in every group; then single steps go back to the groups that are worst off
    while they fit. A step is a channel (one per run of a grouped layer), or ``round_to`` of them.

    Args:
        exact: False takes what fits, however small.

    Raises:
        UserError: With the nearest fraction of the MACs.
    """
    steps = {g.name: min(g.size, lcm(g.conv_groups, round_to)) for g in groups}
    budget = target.fraction * cost.dense
    widths = _largest_that_fits(groups, steps, cost, budget)
    _give_back(groups, steps, cost, budget, widths)
    macs = cost.macs(widths)
    if macs > budget or (exact and not target.met(macs / cost.dense)):
        target.refuse("no network of equal widths", [macs / cost.dense])
    return widths


def _largest_that_fits(
    groups: Sequence[ChannelGroup], steps: Mapping[str, int], cost: WidthCost, budget: float
) -> dict[str, int]:
    low, high = 0.0, 1.0
    if cost.macs(_widths(groups, steps, high)) <= budget:
        return _widths(groups, steps, high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.macs(_widths(groups, steps, middle)) <= budget else (low, middle)
    return _widths(groups, steps, low)


def _widths(groups: Sequence[ChannelGroup], steps: Mapping[str, int], fraction: float) -> dict[str, int]:
    return {g.name: max(1, int(fraction * g.size / steps[g.name])) * steps[g.name] for g in groups}


def _give_back(
    groups: Sequence[ChannelGroup], steps: Mapping[str, int], cost: WidthCost, budget: float, widths: dict[str, int]
) -> None:
    sizes = {g.name: g.size for g in groups}
    fits = True
    while fits:
        fits = False
        for name in sorted(widths, key=lambda n: widths[n] / sizes[n]):
            more = {**widths, name: widths[name] + steps[name]}
            if more[name] <= sizes[name] and cost.macs(more) <= budget:
                widths[name], fits = more[name], True
                break
