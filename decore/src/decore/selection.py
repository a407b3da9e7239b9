"""Channel selection from the agents' weights: by a probability threshold, or by a target of MACs."""

import math
from collections.abc import Mapping, Sequence

from common.channels import ChannelGroup, top_channels
from common.cost import WidthCost
from common.target import Target


def logit(probability: float) -> float:
    """Return the weight w with sigmoid(w) = probability; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def select_by_probability(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], threshold: float, round_to: int = 1
) -> dict[str, list[int]]:
    """Select the channels with sigmoid(w) >= threshold, at least the one with the largest weight of each group.

    Args:
        weights: Agents' weights by group name.
        threshold: Smallest probability of a kept channel.
        round_to: Round widths up to a multiple of this with the channels of the next largest weights. In a grouped
            convolution, every group of channels keeps the same number, those of its largest weights.

    Returns:
        {group: ascending indices of the kept channels}.
    """
    return select_by_weight(groups, weights, logit(threshold), round_to)


def select_by_weight(
    groups: Sequence[ChannelGroup], weights: Mapping[str, Sequence[float]], min_weight: float, round_to: int = 1
) -> dict[str, list[int]]:
    """Select as :func:`select_by_probability` does, by a weight instead of its probability."""
    counts = {group.name: sum(w >= min_weight for w in weights[group.name]) for group in groups}
    return {g.name: top_channels(weights[g.name], max(1, counts[g.name]), round_to, g.conv_groups) for g in groups}


def meet_target(
    groups: Sequence[ChannelGroup],
    weights: Mapping[str, Sequence[float]],
    cost: WidthCost,
    target: Target,
    round_to: int = 1,
) -> tuple[float, dict[str, list[int]]]:
    """Select the channels that meet a target of MACs.

    The kept sets are nested: MACs increase as the smallest kept weight decreases, and bisection finds the largest set that fits.

    Returns:
        The smallest kept weight and {group: ascending indices of the kept channels}.

    Raises:
        UserError: If no threshold meets the target, with the nearest reachable fractions.
    """
    candidates = sorted({w for of_group in weights.values() for w in of_group}, reverse=True)

    def fraction_at(min_weight: float) -> float:
        kept = select_by_weight(groups, weights, min_weight, round_to)
        return cost.macs({name: len(indices) for name, indices in kept.items()}) / cost.dense

    min_weight = target.bisect(candidates, fraction_at, "no probability threshold")
    return min_weight, select_by_weight(groups, weights, min_weight, round_to)
