"""The same share of every channel group, as large as a budget of MACs allows."""

from collections.abc import Mapping, Sequence
from math import lcm

from common.channels import ChannelGroup
from common.cost import WidthCost
from common.errors import UserError

TOLERANCE = 0.02  # a budget is met within [1 - TOLERANCE, 1] of it
STEPS = 40  # of a bisection


def uniform_widths(
    groups: Sequence[ChannelGroup],
    cost: WidthCost,
    target: float,
    round_to: int = 1,
    tolerance: float | None = TOLERANCE,
) -> dict[str, int]:
    """{group: width}, equal shares of all groups whose MACs are within [1 - tolerance, 1] of ``target`` times the dense ones.

    The largest share that fits, rounded down in every group; then single steps go back to the groups that are worst off
    while they fit. A step is a channel (one per run of a grouped layer), or ``round_to`` of them. tolerance: None takes what
    fits, however small. Raises UserError with the nearest share of the MACs.
    """
    if not 0 < target <= 1:
        raise UserError(f"a target of {target:g} of the MACs is not in (0, 1]")
    steps = {g.name: min(g.size, lcm(g.blocks, round_to)) for g in groups}
    budget = target * cost.dense
    widths = _largest_share(groups, steps, cost, budget)
    _give_back(groups, steps, cost, budget, widths)
    macs = cost.macs(widths)
    if macs > budget or (tolerance is not None and macs < (1 - tolerance) * budget):
        raise UserError(
            f"no equal widths keep {target:.4g} of the MACs within 2 %: the nearest keep {macs / cost.dense:.4f}"
        )
    return widths


def _largest_share(
    groups: Sequence[ChannelGroup], steps: Mapping[str, int], cost: WidthCost, budget: float
) -> dict[str, int]:
    low, high = 0.0, 1.0
    if cost.macs(_widths(groups, steps, high)) <= budget:
        return _widths(groups, steps, high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.macs(_widths(groups, steps, middle)) <= budget else (low, middle)
    return _widths(groups, steps, low)


def _widths(groups: Sequence[ChannelGroup], steps: Mapping[str, int], share: float) -> dict[str, int]:
    return {g.name: max(1, int(share * g.size / steps[g.name])) * steps[g.name] for g in groups}


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
