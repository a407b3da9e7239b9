"""Decisions: the filters to keep in each channel group, and the threshold that meets a target of MACs."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from common.channels import ChannelGroup
from common.errors import UserError
from common.methods import Decision
from common.models import ARCHITECTURES
from common.pipeline import apply_decision
from common.target import Target, search_widths
from common.trained_model import TrainedModel
from redundancy_graph.graph import MergeRound, coverage, decompose, redundancy_graph
from redundancy_graph.group_similarity import GroupSimilarity

_VGG_HIDDEN = "classifier.linear1"


@dataclass(frozen=True)
class GroupDecision:
    """Filters to keep in one channel group.

    Attributes:
        group: Name of the channel group.
        layer: Layer whose feature maps were compared.
        producers: All layers that lose the removed filters.
        channels: Number of filters before pruning.
        bits: Number of hash bits compared for each similarity; 0 if there are none, and all filters are kept.
        kept: Ascending indices of the kept filters.
        rounds: Merge rounds of the decomposition.
        coverage: Fraction of the removed filters that are similar to a kept one.
    """

    group: str
    layer: str
    producers: tuple[str, ...]
    channels: int
    bits: int
    kept: list[int]
    rounds: list[MergeRound]
    coverage: float


def decide_group(similarity: GroupSimilarity, threshold: float) -> GroupDecision:
    """Decompose the redundancy graph of one channel group at one threshold."""
    adjacency = redundancy_graph(similarity.similarity, threshold if similarity.bits else np.inf)
    result = decompose(adjacency, similarity.l1_norms)
    return GroupDecision(
        similarity.group,
        similarity.layer,
        similarity.producers,
        len(adjacency),
        similarity.bits,
        result.kept,
        result.rounds,
        coverage(adjacency, result.kept),
    )


def decide_within_limits(
    start: TrainedModel, similarities: Sequence[GroupSimilarity], target: Target
) -> tuple[float, dict[str, list[int]]]:
    """Return a threshold, and {group: kept filters} within the limits of the network, which meet the target.

    The threshold is the largest that fits the target if widths are rounded up to those that the limits allow. Then widths are changed by
    single steps: filters of the largest L1 norms are added to those of the threshold, or those of the smallest removed.

    Raises:
        UserError: If the target cannot be met; the message has the nearest fractions found.
    """
    groups = {group.name: group for group in start.groups}

    def widths_at(threshold: float) -> dict[str, int]:
        counts = {one.group: len(decide_group(one, threshold).kept) for one in similarities}
        return {name: start.limits.at_least(groups[name], count) for name, count in counts.items()}

    cost = start.cost_of(target)

    def fraction_at(threshold: float) -> float:
        return cost.of(widths_at(threshold)) / cost.dense

    thresholds = np.unique(np.concatenate([one.similarity.ravel() for one in similarities])).tolist()
    threshold = thresholds[max(0, bisect_right(thresholds, target.fraction, key=fraction_at) - 1)]
    ladders = {one.group: start.limits.widths(groups[one.group]) for one in similarities}
    what = "no choice of filters within the limits"
    widths = search_widths(ladders, widths_at(threshold), cost, target, what)
    return threshold, {one.group: _resize(one, threshold, widths[one.group]) for one in similarities}


def _resize(similarity: GroupSimilarity, threshold: float, width: int) -> list[int]:
    """Return ``width`` filters: those that are kept at the threshold come first, and among these those of the largest L1 norms."""
    chosen = set(decide_group(similarity, threshold).kept)
    norms = similarity.l1_norms
    return sorted(sorted(range(len(norms)), key=lambda i: (i not in chosen, -norms[i]))[:width])


def add_vgg_hidden_layer(
    decisions: Mapping[str, Sequence[int]], groups: Sequence[ChannelGroup], vgg_hidden: str = "512"
) -> dict[str, list[int]]:
    """Return {group: kept channels} for pruning; ``"shrunk"`` adds VGG's hidden linear layer.

    The networks of the original code have that shape, and its tables list their parameter counts: as many hidden units as filters kept
    in the last convolution, here with the same indices.

    Raises:
        UserError: If the network has no such layer.
    """
    kept = {name: list(indices) for name, indices in decisions.items()}
    if vgg_hidden == "shrunk":
        sizes = {group.name: group.size for group in groups}
        read = [g.name for g in groups if any(name == _VGG_HIDDEN for name, _ in g.consumers)]
        if _VGG_HIDDEN not in sizes or len(read) != 1 or sizes[read[0]] != sizes[_VGG_HIDDEN]:
            raise UserError(
                "--vgg-hidden shrunk: requires a VGG whose hidden linear layer is as wide as its last convolution;"
                " use --vgg-hidden 512"
            )
        kept[_VGG_HIDDEN] = list(kept.get(read[0], range(sizes[read[0]])))
    return kept


def count_macs(start: TrainedModel, kept: Mapping[str, Sequence[int]], vgg_hidden: str) -> int:
    """Count the MACs of the network with these filters, {group: filters}, without building it."""
    return start.cost.macs(_all_widths(start, kept, vgg_hidden))


def _all_widths(start: TrainedModel, kept: Mapping[str, Sequence[int]], vgg_hidden: str) -> dict[str, int]:
    all_kept = add_vgg_hidden_layer(kept, start.all_groups, vgg_hidden)
    return {name: len(indices) for name, indices in all_kept.items()}


def find_threshold(
    start: TrainedModel, similarities: Sequence[GroupSimilarity], target: Target, vgg_hidden: str = "512"
) -> float:
    """Find the threshold that meets a target of MACs or latency. Raises UserError, with the nearest fractions, if there is none."""
    values = [np.unique(one.similarity[np.triu_indices(len(one.similarity), 1)]) for one in similarities]
    widths: dict[tuple[int, int], int] = {}
    cost = start.cost_of(target)

    def width(i: int, threshold: float) -> int:
        key = (i, int(np.searchsorted(values[i], threshold)))  # the graph is constant between neighboring similarities
        if key not in widths:
            widths[key] = len(decide_group(similarities[i], threshold).kept)
        return widths[key]

    def fraction_at(threshold: float) -> float:
        kept = {one.group: range(width(i, threshold)) for i, one in enumerate(similarities)}
        return cost.of(_all_widths(start, kept, vgg_hidden)) / cost.dense

    candidates = np.unique(np.concatenate(values)).tolist()
    return target.scan(fraction_at, candidates, "no threshold", describe=lambda t, f: f"{f:.4f} (--threshold {t!r})")


def shortcut_type(model: nn.Module) -> str | None:
    """Return "conv3x3" (the authors' networks) or "pad" (option A) for a CIFAR ResNet; None for other networks."""
    record = getattr(model, "architecture", None) or {"arch": None, "args": {}}
    architecture = ARCHITECTURES.get(record["arch"])
    return record["args"].get("shortcut", "pad") if architecture and "shortcut" in architecture.arguments else None


def summarize(
    start: TrainedModel,
    decisions: Sequence[GroupDecision],
    threshold: float,
    target_macs: float | None,
    vgg_hidden: str,
) -> dict[str, Any]:
    """Summarize decisions for report.json: cost, filters, and the fraction of removed filters that are similar to a kept one."""
    kept = {decision.group: decision.kept for decision in decisions}
    macs = count_macs(start, kept, vgg_hidden)
    pruned = apply_decision(start, Decision(add_vgg_hidden_layer(kept, start.all_groups, vgg_hidden)))
    params, dense_params = (sum(p.numel() for p in model.parameters()) for model in (pruned, start.model))
    removed = sum(d.channels - len(d.kept) for d in decisions)
    covered = sum(d.coverage * (d.channels - len(d.kept)) for d in decisions)
    return {
        "arch": start.arch or start.name,
        "dataset": start.data.name,
        "weights": start.file.name if start.file else None,
        "shortcut": shortcut_type(start.model),
        "threshold": threshold,
        "target_macs": target_macs,
        "dense_macs": start.cost.dense,
        "macs": macs,
        "macs_removed": round(100 * (1 - macs / start.cost.dense), 2),
        "dense_params": dense_params,
        "params": params,
        "params_removed": round(100 * (1 - params / dense_params), 2),
        "filters": sum(d.channels for d in decisions),
        "filters_removed": removed,
        "coverage": round(covered / removed, 4) if removed else 1.0,
        "layers": {d.layer: f"{len(d.kept)}/{d.channels}" for d in decisions},
    }
