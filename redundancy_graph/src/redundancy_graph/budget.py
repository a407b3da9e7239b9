"""From a trained network to the evidence on its filters, and what any threshold would leave of its MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.cost import WidthCost
from redundancy_graph.decide import Decision, Evidence, decide, gather_evidence, kept_channels, layers_to_hash
from redundancy_graph.features import choose_pictures, collect_hashes
from redundancy_graph.subject import Subject
from redundancy_graph.thresholds import find_threshold


@dataclass(frozen=True)
class Settings:
    """How decisions are made: everything that they depend on besides network, pictures and threshold."""

    mini_batch: int = 100  # pictures
    seed: int = 0
    decider: str = "nearest"
    bn_mode: str = "eval"
    augment: bool = False
    vgg_hidden: str = "512"


def measure(
    subject: Subject, settings: Settings, *, device: torch.device | str = "cpu", workers: int = 2
) -> list[Evidence]:
    """Similarities and norms of every group that decides, from one pass over the pictures."""
    pictures = choose_pictures(subject.data.train, settings.mini_batch, settings.seed)
    layers = layers_to_hash(subject.model, subject.groups, settings.decider)
    hashes = collect_hashes(
        subject.model, pictures, layers,
        device=device, workers=workers, bn_mode=settings.bn_mode, augment=settings.augment,
    )  # fmt: skip
    return gather_evidence(subject.model, subject.groups, hashes, settings.decider)


class Budget:
    """MACs of the network at any threshold, without building it; what was decided once is remembered."""

    def __init__(self, subject: Subject, evidence: Sequence[Evidence], vgg_hidden: str = "512") -> None:
        self.subject, self.evidence, self.vgg_hidden = subject, evidence, vgg_hidden
        self.cost = WidthCost(subject.model, subject.data.input_shape, subject.groups)
        self.values = [np.unique(one.similarity[np.triu_indices(len(one.similarity), 1)]) for one in evidence]
        self.widths: dict[tuple[int, int], int] = {}

    def macs_at(self, threshold: float) -> int:
        kept = {one.group: range(self._width(i, threshold)) for i, one in enumerate(self.evidence)}
        return self.macs(kept)

    def macs(self, kept: dict[str, Sequence[int]]) -> int:
        everything = kept_channels(kept, self.subject.groups, self.vgg_hidden)
        return self.cost.macs({name: len(indices) for name, indices in everything.items()})

    def find(self, keep_fraction: float) -> float:
        """The threshold that keeps this fraction of the dense MACs. Raises UserError with the nearest if there is none."""
        return find_threshold(self.macs_at, np.concatenate(self.values), self.cost.dense, keep_fraction)

    def report(self, decisions: Sequence[Decision], threshold: float, target_macs: float | None) -> dict[str, Any]:
        macs = self.macs({decision.group: decision.kept for decision in decisions})
        removed = sum(d.channels - len(d.kept) for d in decisions)
        covered = sum(d.coverage * (d.channels - len(d.kept)) for d in decisions)
        return {
            "threshold": threshold,
            "target_macs": target_macs,
            "dense_macs": self.cost.dense,
            "macs": macs,
            "macs_removed": round(100 * (1 - macs / self.cost.dense), 2),
            "filters": sum(d.channels for d in decisions),
            "filters_removed": removed,
            "coverage": round(covered / removed, 4) if removed else 1.0,
            "layers": {d.layer: f"{len(d.kept)}/{d.channels}" for d in decisions},
        }

    def _width(self, i: int, threshold: float) -> int:
        """Between two neighbouring similarities the graph is the same."""
        key = (i, int(np.searchsorted(self.values[i], threshold)))
        if key not in self.widths:
            self.widths[key] = len(decide(self.evidence[i], threshold).kept)
        return self.widths[key]
