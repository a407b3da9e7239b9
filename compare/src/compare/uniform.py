"""The same share of every channel group, as large as a budget of MACs allows: what yardsticks that only rank channels cut to."""

from collections.abc import Mapping, Sequence

from common.channels import ChannelGroup
from common.cost import WidthCost
from common.errors import UserError

TOLERANCE = 0.02  # a budget is met within [1 - TOLERANCE, 1] of it
STEPS = 40  # of a bisection


def uniform_widths(groups: Sequence[ChannelGroup], cost: WidthCost, target: float) -> dict[str, int]:
    """{group: width}, equal shares of all groups whose MACs are within [0.98, 1.00] of ``target`` times the dense ones.

    The largest share that fits, rounded down in every group; then single channels (one per run of a grouped layer) go back
    to the groups that are worst off while they fit. Raises UserError with the nearest share of the MACs.
    """
    if not 0 < target <= 1:
        raise UserError(f"a target of {target:g} of the MACs is not in (0, 1]")
    budget = target * cost.dense
    widths = _largest_share(groups, cost, budget)
    _give_back(groups, cost, budget, widths)
    macs = cost.macs(widths)
    if not (1 - TOLERANCE) * budget <= macs <= budget:
        raise UserError(
            f"no equal widths keep {target:.4g} of the MACs within 2 %: the nearest keep {macs / cost.dense:.4f}"
        )
    return widths


def _largest_share(groups: Sequence[ChannelGroup], cost: WidthCost, budget: float) -> dict[str, int]:
    low, high = 0.0, 1.0
    if cost.macs(_widths(groups, high)) <= budget:
        return _widths(groups, high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.macs(_widths(groups, middle)) <= budget else (low, middle)
    return _widths(groups, low)


def _widths(groups: Sequence[ChannelGroup], share: float) -> dict[str, int]:
    return {g.name: max(1, int(share * g.size / g.blocks)) * g.blocks for g in groups}


def _give_back(groups: Sequence[ChannelGroup], cost: WidthCost, budget: float, widths: dict[str, int]) -> None:
    sizes: Mapping[str, int] = {g.name: g.size for g in groups}
    step = {g.name: g.blocks for g in groups}
    fits = True
    while fits:
        fits = False
        for name in sorted(widths, key=lambda n: widths[n] / sizes[n]):
            more = {**widths, name: widths[name] + step[name]}
            if more[name] <= sizes[name] and cost.macs(more) <= budget:
                widths[name], fits = more[name], True
                break
