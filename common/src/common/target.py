"""Compression targets: the tolerance, the searches and the error message that all methods have in common."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from common.errors import UserError
from common.limits import Limits
from common.progress import track
from common.runtimes import TORCH, check_runtime

if TYPE_CHECKING:
    from common.channels import ChannelGroup
    from common.cost.widths import TargetCost

Axis = Literal["macs", "bytes", "latency"]
AXES: tuple[Axis, ...] = ("macs", "bytes", "latency")
K = TypeVar("K")
TOLERANCE, LATENCY_TOLERANCE = 0.02, 0.05  # a target F is met by fractions in [(1 - tolerance) F, F]
WIDE_TOLERANCE = 0.1  # of one result, which is not compared with others
ROUNDING = 1e-9  # of a fraction, such as the product of the targets of a chain
STEPS = 40  # of a bisection
AXIS_NAMES = {"macs": "MACs", "bytes": "bytes", "latency": "latency"}


@dataclass(frozen=True)
class Target:
    """Fraction of the dense network's MACs, bytes on disk or latency to keep.

    Attributes:
        fraction: Largest fraction that meets the target, in (0, 1].
        tolerance: Relative difference of the smallest one, in [0, 1).
        batch_size: Images per forward pass, if the target is a latency.
        runtime: Runtime in which a latency is measured.
        asked: Fraction that the user asked for, if another one is aimed at; messages name it.

    Raises:
        UserError: If a number is out of range.
    """

    fraction: float
    axis: Axis = "macs"
    tolerance: float = TOLERANCE
    batch_size: int = 1
    asked: float | None = None
    runtime: str = TORCH

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise UserError(f"tolerance {self.tolerance:g}: not in [0, 1)")
        if not 0 < self.fraction <= 1:
            raise UserError(f"--target-{self.axis} {self.fraction:g}: not in (0, 1]")
        check_runtime(self.runtime)

    @property
    def option(self) -> str:
        """The option as it was given: "--target-macs 0.5"."""
        return f"--target-{self.axis} {self.fraction if self.asked is None else self.asked:g}"

    @property
    def what(self) -> str:
        """What is kept: MACs, bytes or latency."""
        return AXIS_NAMES[self.axis] if self.asked is None else f"predicted {AXIS_NAMES[self.axis]}"

    @property
    def conditions(self) -> dict[str, int | str | None]:
        """What a latency depends on, as the options of a run."""
        found: dict[str, int | str | None] = {"latency_batch_size": self.batch_size if self.axis == "latency" else None}
        return found if self.runtime == TORCH else {**found, "latency_runtime": self.runtime}

    @property
    def min_fraction(self) -> float:
        """The smallest fraction that meets the target."""
        return (1 - self.tolerance) * self.fraction

    def is_met_by(self, fraction: float) -> bool:
        """Return whether a fraction is between 1 - tolerance and 1 times the target."""
        return self.min_fraction <= fraction <= self.fraction

    def require_groups(self, usable: Sequence[ChannelGroup], found: Sequence[ChannelGroup] = ()) -> None:
        """Raise UserError if no channel group is usable. found: all groups of the network."""
        if not usable:
            reason = (
                f"the options exclude all {len(found)}"
                if found
                else "the network has none that can be traced and removed"
            )
            raise UserError(
                f"{self.option}: no channel group can be pruned: {reason}; python -m common.channels "
                "lists the groups of a network"
            )

    def check(self, fraction: float) -> None:
        """Raise UserError if a finished network, which keeps ``fraction``, misses the target."""
        if not self.min_fraction - ROUNDING <= fraction <= self.fraction + ROUNDING:
            window = f"{self.min_fraction:.4g} to {self.fraction:.4g} of the {self.what}"
            raise UserError(
                f"{self.option}: the network keeps {fraction:.4f}, not {window}: its cost is not the "
                "one that its channel groups predict"
            )

    def raise_unreachable(self, what: str, near: Iterable[str | float]) -> NoReturn:
        """Raise the UserError for an unreachable target.

        what: subject of the message, e.g. "no threshold". near: nearest reachable fractions, as numbers or text.
        """
        found = [value if isinstance(value, str) else f"{value:.4f}" for value in near]
        nearest = f"; the nearest keep {' and '.join(found)}" if found else ""
        window = f"{self.min_fraction:.4g} to {self.fraction:.4g} of the {self.what}"
        raise UserError(f"{self.option}: {what} keeps {window}{nearest}")

    def bisect(self, candidates: Sequence[K], fraction_at: Callable[[K], float], what: str) -> K:
        """Return the last candidate that does not exceed the target; ``fraction_at`` must increase over the candidates.

        Raises UserError, with the nearest fractions and ``what`` as the subject, if that candidate misses the target.
        """
        above = bisect_right(candidates, self.fraction, key=fraction_at)
        if above == 0 or not self.is_met_by(fraction_at(candidates[above - 1])):
            near = [fraction_at(candidates[i]) for i in (above - 1, above) if 0 <= i < len(candidates)]
            self.raise_unreachable(what, near)
        return candidates[above - 1]

    def scan(
        self,
        fraction_at: Callable[[float], float],
        values: Sequence[float],
        what: str,
        spacing: float = 0.01,
        describe: Callable[[float, float], str] = lambda value, fraction: f"{fraction:.4f} (at {value!r})",
    ) -> float:
        """Return the value in (0, 1] with the largest fraction that meets the target; fractions need not be monotone.

        A grid of ``spacing`` is searched first, then finer grids where two neighbors lie on both sides of the target,
        and finally all ``values``.

        Args:
            fraction_at: Function that returns the fraction for a value.
            values: All values at which the fraction changes, ascending.
            what: Subject of the error message, e.g. "no threshold".
            describe: Function that formats a value and its fraction for the error message.

        Raises:
            UserError: If no value meets the target; the message has the nearest fractions.
        """
        found: dict[float, float] = {}

        def best_of(candidates: Iterable[float]) -> float | None:
            new = [value for value in candidates if value not in found]
            found.update({value: fraction_at(value) for value in track(new, "search")})
            good = [value for value, fraction in found.items() if self.is_met_by(fraction)]
            return max(good, key=lambda value: (found[value], value)) if good else None

        smallest = 1 / max(1, len(values))
        best = best_of(round(i * spacing, 10) for i in range(1, round(1 / spacing) + 1))
        while best is None and spacing > smallest / 10:
            spacing /= 10
            best = best_of(self._between(found, spacing))
        if best is None:
            best = best_of(value for value in values if 0 < value <= 1)
        if best is None:
            below = max(
                (value for value in found if found[value] <= self.fraction), key=found.__getitem__, default=None
            )
            above = min((value for value in found if found[value] > self.fraction), key=found.__getitem__, default=None)
            near = ["nothing" if value is None else describe(value, found[value]) for value in (below, above)]
            self.raise_unreachable(what, near)
        return best

    def _between(self, found: Mapping[float, float], spacing: float) -> list[float]:
        """Return a finer grid between all neighbors whose fractions are on both sides of the target."""
        grid: list[float] = []
        for low, high in pairwise(sorted(found)):
            if min(found[low], found[high]) <= self.fraction <= max(found[low], found[high]):
                steps = math.ceil((high - low) / spacing - 1e-9)
                grid += [round(low + i * spacing, 10) for i in range(1, steps)]
        return grid


def latency_target(fraction: float, batch_size: int | None = None, runtime: str | None = None) -> Target:
    """Return a target of latency, with its tolerance. batch_size: images per forward pass; None: 1. runtime: None: PyTorch."""
    return Target(fraction, "latency", LATENCY_TOLERANCE, batch_size or 1, runtime=runtime or TORCH)


def only_target(
    given: Mapping[Axis, float | None],
    tolerance: float | None = None,
    batch_size: int = 1,
    runtime: str = TORCH,
    option: Callable[[str], str] = str,
) -> Target | None:
    """Return the only target that is given; None without any.

    Args:
        given: Fraction by axis; None: not given.
        tolerance: None: 0.1, and 0.05 for a latency.
        batch_size: Images per forward pass, of a latency.
        runtime: Runtime in which a latency is measured.
        option: Function from a parameter's name to its name in error messages.

    Raises:
        UserError: For several.
    """
    found = [(axis, value) for axis, value in given.items() if value is not None]
    if len(found) > 1:
        raise UserError(no_target_message(list(given), option))
    if not found:
        return None
    axis, value = found[0]
    default = LATENCY_TOLERANCE if axis == "latency" else WIDE_TOLERANCE
    return Target(float(value), axis, default if tolerance is None else tolerance, batch_size, runtime=runtime)


def no_target_message(axes: Sequence[Axis], option: Callable[[str], str] = str) -> str:
    """Return the error message if none or several of the targets are given. option: as of :func:`only_target`."""
    names = [option(f"target_{axis}") for axis in axes]
    return f"target: give one of {', '.join(names[:-1])} and {names[-1]}, the fraction to keep, such as {option('target_macs')} 0.5"


def uniform_widths(
    groups: Sequence[ChannelGroup],
    cost: TargetCost,
    target: Target,
    limits: Limits | None = None,
    exact: bool = True,
) -> dict[str, int]:
    """Return widths {group: width} at an equal fraction of all groups, within the limits, whose cost meets the target.

    The largest fraction that fits is rounded down in every group; then single steps are added, always to the group with
    the smallest remaining fraction, while they fit. A step leads to the next width that the limits allow. If limits make the steps
    too coarse, :func:`search_widths` does the rest.

    Args:
        limits: Limits on the widths; None for none.
        exact: Whether to raise an error if the MACs are below 0.98 of the target.

    Raises:
        UserError: If the target cannot be met; the message has the nearest fraction.
    """
    target.require_groups(groups)
    ladders = {group.name: (limits or Limits()).widths(group) for group in groups}
    budget = target.fraction * cost.dense
    widths = _largest_that_fits(ladders, cost, budget)
    _widen(ladders, cost, budget, widths)
    macs = cost.of(widths)
    if macs > budget or (exact and not target.is_met_by(macs / cost.dense)):
        if limits:
            return search_widths(ladders, widths, cost, target, "no network of equal widths within the limits")
        target.raise_unreachable("no network of equal widths", [macs / cost.dense])
    return widths


def search_widths(
    ladders: Mapping[str, Sequence[int]], widths: Mapping[str, int], cost: TargetCost, target: Target, what: str
) -> dict[str, int]:
    """Return widths that meet the target, changed from the given ones by single steps, or pairs of opposite steps.

    Every change brings the MACs as near to the target as possible. If that does not meet it, one group after the other is set one step
    wider or narrower, and the others are changed around it.

    Args:
        ladders: {group: allowed widths, ascending}.
        widths: Where to start, near the target.
        what: Subject of the error message.

    Raises:
        UserError: If no widths are found; the message has the nearest fractions on both sides that were.
    """
    tried: set[float] = set()

    def distance(candidate: Mapping[str, int]) -> float:
        fraction = cost.of(candidate) / cost.dense
        tried.add(fraction)
        return max(fraction - target.fraction, target.min_fraction - fraction, 0.0)

    def approach(start: Mapping[str, int], movable: Mapping[str, Sequence[int]]) -> dict[str, int]:
        best, missed = dict(start), distance(start)
        while missed:
            singles = [*_steps(movable, best, -1), *_steps(movable, best, 1)]
            pairs = (pair for lower in _steps(movable, best, -1) for pair in _steps(movable, lower, 1))
            for candidates in (singles, pairs):
                nearest = min(candidates, key=distance, default=best)
                if distance(nearest) < missed:
                    best, missed = nearest, distance(nearest)
                    break
            else:
                break
        return best

    found = approach(widths, ladders)
    pivots = (pivot for direction in (-1, 1) for pivot in _steps(ladders, widths, direction))
    while distance(found):
        pivot = next(pivots, None)
        if pivot is None:
            below = max((fraction for fraction in tried if fraction <= target.fraction), default=None)
            above = min((fraction for fraction in tried if fraction > target.fraction), default=None)
            target.raise_unreachable(what, [fraction for fraction in (below, above) if fraction is not None])
        others = {name: ladder for name, ladder in ladders.items() if pivot[name] == widths[name]}
        found = approach(pivot, others)
    return found


def _steps(ladders: Mapping[str, Sequence[int]], widths: Mapping[str, int], direction: int) -> Iterator[dict[str, int]]:
    """Yield the widths with one group one step down (-1) or up (+1)."""
    for name, ladder in ladders.items():
        place = ladder.index(widths[name]) + direction
        if 0 <= place < len(ladder):
            yield {**widths, name: ladder[place]}


def _largest_that_fits(ladders: Mapping[str, Sequence[int]], cost: TargetCost, budget: float) -> dict[str, int]:
    low, high = 0.0, 1.0
    if cost.of(_widths(ladders, high)) <= budget:
        return _widths(ladders, high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.of(_widths(ladders, middle)) <= budget else (low, middle)
    return _widths(ladders, low)


def _widths(ladders: Mapping[str, Sequence[int]], fraction: float) -> dict[str, int]:
    """Return the largest widths that are at most a fraction of the groups, or the smallest that are allowed."""
    return {name: ladder[max(0, bisect_right(ladder, fraction * ladder[-1]) - 1)] for name, ladder in ladders.items()}


def _widen(ladders: Mapping[str, Sequence[int]], cost: TargetCost, budget: float, widths: dict[str, int]) -> None:
    """Widen groups by single steps, in place, while the MACs stay within the budget."""
    fits = True
    while fits:
        fits = False
        for name in sorted(widths, key=lambda n: widths[n] / ladders[n][-1]):
            wider = next((width for width in ladders[name] if width > widths[name]), None)
            if wider is not None and cost.of({**widths, name: wider}) <= budget:
                widths[name], fits = wider, True
                break
