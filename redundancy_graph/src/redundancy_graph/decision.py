"""From evidence to decisions: for each channel group the filters that stay, and the threshold that meets a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.channels import ChannelGroup
from common.errors import UserError
from common.target import Target
from common.trained_model import TrainedModel
from redundancy_graph.evidence import Evidence
from redundancy_graph.graph import Round, coverage, decompose, redundancy_graph

_VGG_HIDDEN = "classifier.linear1"


@dataclass(frozen=True)
class GroupDecision:
    """Filters of a group to keep, ascending, with the rounds that led there and the share of removed ones that are covered."""

    group: str
    layer: str
    producers: tuple[str, ...]
    channels: int
    bits: int
    kept: list[int]
    rounds: list[Round]
    coverage: float


def decide_group(evidence: Evidence, threshold: float) -> GroupDecision:
    """Decompose the redundancy graph of one group at one threshold."""
    adjacency = redundancy_graph(evidence.similarity, threshold)
    result = decompose(adjacency, evidence.l1_norms)
    return GroupDecision(
        evidence.group,
        evidence.layer,
        evidence.producers,
        len(adjacency),
        evidence.bits,
        result.kept,
        result.rounds,
        coverage(adjacency, result.kept),
    )


def kept_channels(
    decisions: Mapping[str, Sequence[int]], groups: Sequence[ChannelGroup], hidden: str = "512"
) -> dict[str, list[int]]:
    """{group: kept channels} for the cut; ``shrunk`` ties VGG's hidden linear layer to the channels that it reads.

    The seed's networks have that shape (its tables' parameter counts belong to it): as many hidden units as filters left
    in the last convolution, here with the same indices. Raises UserError where there is no such layer.
    """
    kept = {name: list(indices) for name, indices in decisions.items()}
    if hidden == "shrunk":
        sizes = {group.name: group.size for group in groups}
        read = [g.name for g in groups if any(name == _VGG_HIDDEN for name, _ in g.consumers)]
        if _VGG_HIDDEN not in sizes or len(read) != 1 or sizes[read[0]] != sizes[_VGG_HIDDEN]:
            raise UserError(
                "--vgg-hidden shrunk needs a VGG whose hidden linear layer is as wide as its last convolution"
            )
        kept[_VGG_HIDDEN] = list(kept.get(read[0], range(sizes[read[0]])))
    return kept


def macs_of(start: TrainedModel, kept: Mapping[str, Sequence[int]], hidden: str) -> int:
    """MACs of the network with these filters, {group: filters}, without building it."""
    everything = kept_channels(kept, start.all_groups, hidden)
    return start.cost.macs({name: len(indices) for name, indices in everything.items()})


def find_threshold(start: TrainedModel, evidence: Sequence[Evidence], target: Target, hidden: str = "512") -> float:
    """The threshold that meets a target of MACs. Raises UserError with the nearest if there is none."""
    values = [np.unique(one.similarity[np.triu_indices(len(one.similarity), 1)]) for one in evidence]
    widths: dict[tuple[int, int], int] = {}

    def width(i: int, threshold: float) -> int:
        key = (
            i,
            int(np.searchsorted(values[i], threshold)),
        )  # between two neighboring similarities the graph is the same
        if key not in widths:
            widths[key] = len(decide_group(evidence[i], threshold).kept)
        return widths[key]

    def fraction_at(threshold: float) -> float:
        kept = {one.group: range(width(i, threshold)) for i, one in enumerate(evidence)}
        return macs_of(start, kept, hidden) / start.cost.dense

    occurring = np.unique(np.concatenate(values)).tolist()
    return target.scan(fraction_at, occurring, "no threshold", describe=lambda t, f: f"{f:.4f} (--threshold {t!r})")


def report(
    start: TrainedModel, decisions: Sequence[GroupDecision], threshold: float, target_macs: float | None, hidden: str
) -> dict[str, Any]:
    """What the decisions come to: MACs, filters, and the fraction of removed filters that a kept one covers."""
    macs = macs_of(start, {decision.group: decision.kept for decision in decisions}, hidden)
    removed = sum(d.channels - len(d.kept) for d in decisions)
    covered = sum(d.coverage * (d.channels - len(d.kept)) for d in decisions)
    return {
        "threshold": threshold,
        "target_macs": target_macs,
        "dense_macs": start.cost.dense,
        "macs": macs,
        "macs_removed": round(100 * (1 - macs / start.cost.dense), 2),
        "filters": sum(d.channels for d in decisions),
        "filters_removed": removed,
        "coverage": round(covered / removed, 4) if removed else 1.0,
        "layers": {d.layer: f"{len(d.kept)}/{d.channels}" for d in decisions},
    }
