"""How many channels stay: one shot by a fraction, by accuracy or by a budget. Decisions only; nothing is cut here.

Every step takes channels from one group and is scored by what it loses over the MACs that it truly saves; the paper's
``iditer`` is this loop with statistics that are measured anew. (Paper, section 4)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from common.errors import UserError
from common.target import Target
from model_preserving_id.ranking import Ranking
from model_preserving_id.settings import SCORES

Macs = Callable[[Mapping[str, int]], int]  # of the network at these widths
Loss = Callable[[str, int, int], float]  # (group, width before, width after) -> what the step loses


@dataclass(frozen=True)
class Step:
    """Channels of one group from ``before`` to ``after``: error, score = error / MACs saved, MACs of the network then."""

    group: str
    before: int
    after: int
    error: float
    score: float
    macs: int


def by_fraction(rankings: Mapping[str, Ranking], keep: float) -> dict[str, int]:
    """int(keep * C) channels of every group, at least one: the paper's ``frac``."""
    if not 0 < keep <= 1:
        raise UserError(f"keep {keep} is out of range: the fraction of channels that stays lies in (0, 1]")
    return {name: one.at_most(max(1, int(keep * one.size))) for name, one in rankings.items()}


def by_eps(rankings: Mapping[str, Ranking], eps: float) -> dict[str, int]:
    """The smallest widths whose pivot error is at most eps."""
    if not 0 <= eps < 1:
        raise UserError(f"eps {eps} is out of range: expected 0 <= eps < 1")
    return {name: one.width_for(eps) for name, one in rankings.items()}


def by_counts(rankings: Mapping[str, Ranking], kept: Mapping[str, int]) -> dict[str, int]:
    """Widths as they are given; groups that are not named stay whole. Raises UserError, naming the group, for one that cannot be."""
    for name, width in kept.items():
        if name not in rankings:
            raise UserError(f"no channel group {name!r} to shrink; there are {', '.join(rankings) or 'none'}")
        one = rankings[name]
        if not isinstance(width, int) or isinstance(width, bool):
            raise UserError(f"{name}: kept says how many channels stay, not {width!r}")
        if width not in one.widths:
            near = sorted(one.widths, key=lambda w: abs(w - width))[:2]
            raise UserError(
                f"{name}: {width} channels cannot stay; the nearest widths are {', '.join(map(str, sorted(near)))}"
            )
    return {name: kept.get(name, one.size) for name, one in rankings.items()}


def relative_loss(rankings: Mapping[str, Ranking], score: str) -> Loss:
    """The paper's rule: the error that the group has after the step, whatever it was before."""
    return lambda name, before, after: float(getattr(rankings[name], score)[after])


def measured_loss(damage: Mapping[str, Mapping[int, float] | list[float]]) -> Loss:
    """What the step adds to the damage, ``damage[group][width]``, measured at the network's outputs."""
    return lambda name, before, after: max(0.0, damage[name][after] - damage[name][before])


def best_step(
    rankings: Mapping[str, Ranking], widths: Mapping[str, int], macs: Macs, loss: Loss, keep: float, floor: float = 0.0
) -> Step | None:
    """The step with the smallest loss per MAC saved, each group going to int(keep * width) channels, at least one less.

    floor: MACs that no step may go below; a group takes a smaller step then. None if no group can shrink. Ties: first group.
    """
    now = macs(widths)
    best = None
    for one in rankings.values():
        step = _step(one, widths, macs, loss, keep, floor, now)
        if step is not None and (best is None or step.score < best.score):
            best = step
    return best


def _step(
    one: Ranking, widths: Mapping[str, int], macs: Macs, loss: Loss, keep: float, floor: float, now: int
) -> Step | None:
    name, before = one.group, widths[one.group]
    lower = [w for w in one.widths if w < before]
    if not lower:
        return None
    first = min(one.at_most(int(keep * before)), lower[-1])
    for after in (w for w in lower if w >= first):
        there = macs({**widths, name: after})
        if there >= floor and there < now:
            error = loss(name, before, after)
            return Step(name, before, after, error, error / (now - there), there)
    return None


def by_budget(
    rankings: Mapping[str, Ranking], macs: Macs, dense_macs: int, target: Target, loss: Loss, keep: float = 0.95
) -> dict[str, int]:
    """Widths that meet the target, step by step from the unpruned network.

    Raises UserError with the nearest fraction that was found if there are none.
    """
    widths = {name: one.size for name, one in rankings.items()}
    while macs(widths) > target.fraction * dense_macs:
        step = best_step(rankings, widths, macs, loss, keep, floor=target.least * dense_macs)
        if step is None:
            return exchange(rankings, widths, macs, dense_macs, target)
        widths[step.group] = step.after
    return widths


def check_score(score: str) -> None:
    if score not in SCORES:
        raise UserError(f"--score {score}: expected one of {', '.join(SCORES)}")


def exchange(
    rankings: Mapping[str, Ranking], widths: Mapping[str, int], macs: Macs, dense_macs: int, target: Target
) -> dict[str, int]:
    """Widths that meet the target and that one group's next width below, and perhaps another's next above, lead to.

    Raises UserError naming the nearest fraction seen.
    """
    seen: list[float] = []
    for candidate in _neighbors(rankings, widths):
        seen.append(macs(candidate) / dense_macs)
        if target.met(seen[-1]):
            return candidate
    target.refuse("no choice of widths", [min(seen, key=lambda fraction: abs(fraction - target.fraction))])


def _neighbors(rankings: Mapping[str, Ranking], widths: Mapping[str, int]) -> Iterable[dict[str, int]]:
    yield dict(widths)
    for name, one in rankings.items():
        below = [w for w in one.widths if w < widths[name]]
        for after in below[-1:]:
            lowered = {**widths, name: after}
            yield lowered
            for other, two in rankings.items():
                above = [w for w in two.widths if w > widths[other]]
                if other != name and above:
                    yield {**lowered, other: above[0]}
