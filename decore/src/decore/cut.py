"""From agents' weights to kept channels: p >= threshold, or the threshold that leaves a wanted share of the MACs."""

import math
from collections.abc import Mapping, Sequence

from common.channels import ChannelGroup, top_channels
from common.cost import WidthCost
from common.target import Target


def logit(probability: float) -> float:
    """The weight whose sigmoid is this; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def kept_channels(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], threshold: float, round_to: int = 1
) -> dict[str, list[int]]:
    """{group: indices of the channels with sigmoid(w) >= threshold}, at least the one with the largest weight.

    round_to: widths are rounded up to a multiple by the next best channels; where a grouped layer wants equal runs, each
    keeps its best.
    """
    return kept_above(groups, weights, logit(threshold), round_to)


def kept_above(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], least: float, round_to: int = 1
) -> dict[str, list[int]]:
    """:func:`kept_channels` by a weight instead of its probability."""
    counts = {group.name: sum(w >= least for w in weights[group.name]) for group in groups}
    return {g.name: top_channels(weights[g.name], max(1, counts[g.name]), round_to, g.conv_groups) for g in groups}


def meet_target(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, Sequence[float]],
    cost: WidthCost,
    target: Target,
    round_to: int = 1,
) -> tuple[float, dict[str, list[int]]]:
    """(least weight that is kept, kept channels) that meet the target.

    The kept sets are nested, so MACs rise as the cut falls and bisection finds the largest that fit. Raises UserError with
    the nearest fractions that can be reached.
    """
    cuts = sorted({w for of_group in weights.values() for w in of_group}, reverse=True)

    def fraction_at(least: float) -> float:
        kept = kept_above(groups, weights, least, round_to)
        return cost.macs({name: len(indices) for name, indices in kept.items()}) / cost.dense

    least = target.bisect(cuts, fraction_at, "no cut of these agents")
    return least, kept_above(groups, weights, least, round_to)
