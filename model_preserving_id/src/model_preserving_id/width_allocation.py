"""Choose the number of channels per group: from a fraction, an error bound or a target. Nothing is pruned here.

Each step removes channels of one group. Its score is its error over the MACs, or the predicted time, that it saves in the complete network. The
paper's ``iditer`` is the same loop with statistics that are re-estimated on the way. (Paper, section 4)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from common.errors import UserError
from common.target import Target
from model_preserving_id.channel_ranking import ChannelRanking
from model_preserving_id.settings import SCORES

FAR = 4  # steps of the group that saves the most MACs
SEARCHED = 500  # widths; also bounds the depth of the recursion
CostOf = Callable[[Mapping[str, int]], float]  # MACs or predicted seconds of the network at these widths
StepScore = Callable[[str, int, int], float]  # (group, width before, width after) -> error of the step


@dataclass(frozen=True)
class WidthStep:
    """Prune one group from ``before`` to ``after`` channels: error, score = error / cost saved, cost of the resulting network."""

    group: str
    before: int
    after: int
    error: float
    score: float
    cost: float


def widths_from_fraction(rankings: Mapping[str, ChannelRanking], keep: float) -> dict[str, int]:
    """Return int(keep * C) channels for every group, at least one: the paper's ``frac``."""
    if not 0 < keep <= 1:
        raise UserError(f"keep {keep} is out of range: expected a fraction of the channels in (0, 1]")
    return {name: one.at_most(max(1, int(keep * one.size))) for name, one in rankings.items()}


def widths_from_eps(rankings: Mapping[str, ChannelRanking], eps: float) -> dict[str, int]:
    """Return the smallest widths whose pivot error is at most eps."""
    if not 0 <= eps < 1:
        raise UserError(f"eps {eps} is out of range: expected 0 <= eps < 1")
    return {name: one.width_for(eps) for name, one in rankings.items()}


def widths_from_counts(rankings: Mapping[str, ChannelRanking], kept: Mapping[str, int]) -> dict[str, int]:
    """Return the given widths; other groups keep all channels. Raises UserError, with the group, for a width that is not allowed."""
    for name, width in kept.items():
        if name not in rankings:
            raise UserError(f"kept: no prunable channel group {name!r}; expected {', '.join(rankings) or 'none'}")
        one = rankings[name]
        if not isinstance(width, int) or isinstance(width, bool):
            raise UserError(f"{name}: kept must be a number of channels, got {width!r}")
        if width not in one.widths:
            near = sorted(one.widths, key=lambda w: abs(w - width))[:2]
            raise UserError(
                f"{name}: {width} channels cannot be kept; the nearest widths are {', '.join(map(str, sorted(near)))}"
            )
    return {name: kept.get(name, one.size) for name, one in rankings.items()}


def error_score(rankings: Mapping[str, ChannelRanking], score: str) -> StepScore:
    """Return a StepScore: the group's ``pivot`` (the paper), ``sigma`` or ``frobenius`` error after the step."""
    return lambda name, before, after: float(getattr(rankings[name], score)[after])


def sensitivity_score(sensitivity: Mapping[str, Mapping[int, float] | list[float]]) -> StepScore:
    """Return a StepScore: the increase of the group's sensitivity, ``sensitivity[group][width]``."""
    return lambda name, before, after: max(0.0, sensitivity[name][after] - sensitivity[name][before])


def find_best_step(
    rankings: Mapping[str, ChannelRanking],
    widths: Mapping[str, int],
    cost: CostOf,
    step_score: StepScore,
    keep: float,
    floor: float = 0.0,
    per_layer: bool = False,
    leads_on: Callable[[Mapping[str, int]], bool] = lambda widths: True,
) -> WidthStep | None:
    """Return the step with the smallest error per MAC saved, or None if no group can be pruned. Ties go to the first group.

    A step reduces one group to int(keep * width) channels and removes at least one channel.

    keep: Fraction of a group's channels that a step keeps.
    floor: Lower bound on the MACs. A step that would fall below it is shortened.
    per_layer: Divide by the MACs of the layers that produce or read the group (the paper), not by the MACs saved.
    leads_on: Whether widths are allowed; a step that leads to others is shortened, or not taken.
    """
    now = cost(widths)
    best = None
    for one in rankings.values():
        step = _step(one, widths, cost, step_score, keep, floor, now, per_layer, leads_on)
        if step is not None and (best is None or step.score < best.score):
            best = step
    return best


def _step(
    one: ChannelRanking,
    widths: Mapping[str, int],
    cost: CostOf,
    step_score: StepScore,
    keep: float,
    floor: float,
    now: float,
    per_layer: bool,
    leads_on: Callable[[Mapping[str, int]], bool],
) -> WidthStep | None:
    name, before = one.group, widths[one.group]
    first = _first_width(one, before, keep)
    for after in (w for w in one.widths if first <= w < before):
        then = cost({**widths, name: after})
        if floor <= then < now and leads_on({**widths, name: after}):
            error = step_score(name, before, after)
            saved = now - (cost({**widths, name: 0}) if per_layer else then)
            return WidthStep(name, before, after, error, error / saved, then)
    return None


def _first_width(one: ChannelRanking, before: int, keep: float) -> int:
    """Return the width after a step that is not shortened: at least one channel is removed, if any can be."""
    lower = [w for w in one.widths if w < before]
    return min(one.at_most(int(keep * before)), lower[-1]) if lower else before


def leads_to_target(
    rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float, target: Target
) -> bool:
    """Return whether these widths or smaller ones meet the target.

    This is assumed if the target is many steps away or the search takes too long.
    """
    if target.fraction < _far_below(rankings, widths, cost, dense):
        return True
    seen = _search_fractions(rankings, widths, cost, dense, target)
    return len(seen) > SEARCHED or target.is_met_by(seen[-1])


def free_below(
    rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float, keep: float
) -> float:
    """Return the fraction of the MACs below which a target does not influence the next step of :func:`find_best_step`."""
    next_widths = [{**widths, name: _first_width(one, widths[name], keep)} for name, one in rankings.items()]
    return min(_far_below(rankings, after, cost, dense) for after in next_widths)


def _far_below(rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float) -> float:
    """Return the fraction of the MACs below which a target is many steps away from these widths."""
    now = cost(widths) / dense
    return now - FAR * max((now - cost(lowered) / dense for _, lowered in _lowered(rankings, widths)), default=now)


def nearest_fraction(
    rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float, target: Target
) -> float:
    """Return the fraction of the MACs nearest to the target, among those that were tried: these widths and smaller ones."""
    seen = _search_fractions(rankings, widths, cost, dense, target)
    return min(seen, key=lambda fraction: abs(fraction - target.fraction) * (not target.is_met_by(fraction)))


def _search_fractions(
    rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float, target: Target
) -> list[float]:
    """Return the fractions of the MACs at these widths and smaller ones, until one meets the target or SEARCHED were tried."""
    seen = [cost(widths) / dense]

    def search(above: Mapping[str, int], groups: Mapping[str, ChannelRanking]) -> bool:
        rest = dict(groups)
        for name, lowered in _lowered(groups, above):
            seen.append(cost(lowered) / dense)
            while next(iter(rest)) != name:  # groups are lowered in this order only
                del rest[next(iter(rest))]
            if len(seen) > SEARCHED or target.is_met_by(seen[-1]):
                return True
            if seen[-1] > target.fraction and search(lowered, rest):
                return True
        return False

    if seen[0] > target.fraction:
        saved = {name: seen[0] - cost(lowered) / dense for name, lowered in _lowered(rankings, widths)}
        search(widths, {name: rankings[name] for name in sorted(saved, key=lambda name: saved[name], reverse=True)})
    return seen


def _lowered(rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield (group, widths with this group one width down)."""
    for name, one in rankings.items():
        below = [w for w in one.widths if w < widths[name]]
        if below:
            yield name, {**widths, name: below[-1]}


def widths_from_target(
    rankings: Mapping[str, ChannelRanking],
    cost: CostOf,
    dense: float,
    target: Target,
    step_score: StepScore,
    keep: float = 0.95,
) -> dict[str, int]:
    """Return widths that meet the target, step by step from the unpruned network.

    Raises UserError with the nearest fraction found if the target cannot be met.
    """
    widths = {name: one.size for name, one in rankings.items()}
    while cost(widths) > target.fraction * dense:
        step = find_best_step(rankings, widths, cost, step_score, keep, floor=target.min_fraction * dense)
        if step is None:
            return swap_widths(rankings, widths, cost, dense, target)
        widths[step.group] = step.after
    return widths


def check_score(score: str) -> None:
    """Raise UserError for an unknown value."""
    if score not in SCORES:
        raise UserError(f"--score {score}: expected one of {', '.join(SCORES)}")


def swap_widths(
    rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int], cost: CostOf, dense: float, target: Target
) -> dict[str, int]:
    """Return widths that meet the target, with one group one width down and, if necessary, another group one width up.

    Raises UserError with the nearest fraction found if there are none.
    """
    seen: list[float] = []
    for candidate in _neighbors(rankings, widths):
        seen.append(cost(candidate) / dense)
        if target.is_met_by(seen[-1]):
            return candidate
    target.raise_unreachable("no choice of widths", [min(seen, key=lambda fraction: abs(fraction - target.fraction))])


def _neighbors(rankings: Mapping[str, ChannelRanking], widths: Mapping[str, int]) -> Iterable[dict[str, int]]:
    yield dict(widths)
    for name, lowered in _lowered(rankings, widths):
        yield lowered
        for other, two in rankings.items():
            above = [w for w in two.widths if w > widths[other]]
            if other != name and above:
                yield {**lowered, other: above[0]}
