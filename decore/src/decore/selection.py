"""Channel selection from the agents' weights: by a probability threshold, or by a target of MACs."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from common.channels import ChannelGroup, top_channels
from common.cost.widths import TargetCost
from common.limits import Limits
from common.target import Target, search_widths

UNLIMITED = Limits()


def logit(probability: float) -> float:
    """Return the weight w with sigmoid(w) = probability; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def select_by_probability(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, Sequence[float]],
    threshold: float,
    limits: Limits = UNLIMITED,
) -> dict[str, list[int]]:
    """Select the channels with sigmoid(w) >= threshold, at least the one with the largest weight of each group.

    Args:
        weights: Agents' weights by group name.
        threshold: Smallest probability of a kept channel.
        limits: Widths are rounded up to those that they allow, with the channels of the next largest weights. In a grouped
            convolution, every group of channels keeps the same number, those of its largest weights.

    Returns:
        {group: ascending indices of the kept channels}.
    """
    return select_by_weight(groups, weights, logit(threshold), limits)


def select_by_weight(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, Sequence[float]],
    min_weight: float,
    limits: Limits = UNLIMITED,
) -> dict[str, list[int]]:
    """Select as :func:`select_by_probability` does, by a weight instead of its probability."""
    return select_by_width(groups, weights, _widths(groups, weights, min_weight, limits))


def select_by_width(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], widths: Mapping[str, int]
) -> dict[str, list[int]]:
    """Select the channels of the largest weights, ``widths[group]`` of each group."""
    return {g.name: top_channels(weights[g.name], widths[g.name], conv_groups=g.conv_groups) for g in groups}


def _widths(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], min_weight: float, limits: Limits
) -> dict[str, int]:
    """Return the number of channels that weigh ``min_weight`` or more, rounded up to an allowed width."""
    return {g.name: limits.at_least(g, max(1, sum(w >= min_weight for w in weights[g.name]))) for g in groups}


def meet_target(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, Sequence[float]],
    cost: TargetCost,
    target: Target,
    limits: Limits = UNLIMITED,
) -> tuple[float, dict[str, list[int]]]:
    """Select the channels that meet a target of MACs or latency.

    The kept sets are nested: the cost increases as the smallest kept weight decreases, and bisection finds the largest set that fits.
    If limits make the steps from set to set too coarse, the widths of that set are changed by single steps.

    Returns:
        The smallest kept weight and {group: ascending indices of the kept channels}.

    Raises:
        UserError: If no threshold meets the target, with the nearest reachable fractions.
    """
    candidates = sorted({w for of_group in weights.values() for w in of_group}, reverse=True)

    def fraction_at(min_weight: float) -> float:
        return cost.of(_widths(groups, weights, min_weight, limits)) / cost.dense

    if limits:
        last = candidates[max(0, bisect_right(candidates, target.fraction, key=fraction_at) - 1)]
        ladders = {group.name: limits.widths(group) for group in groups}
        start = _widths(groups, weights, last, limits)
        widths = search_widths(ladders, start, cost, target, "no selection within the limits")
        return last, select_by_width(groups, weights, widths)
    min_weight = target.bisect(candidates, fraction_at, "no probability threshold")
    return min_weight, select_by_weight(groups, weights, min_weight, limits)
