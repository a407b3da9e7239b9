"""Predict the time of encoding vectors from the measured times of layers (:mod:`common.latency_target`), without building networks."""

from collections.abc import Sequence

import numpy as np

from common.channels import ChannelGroup
from common.cost.widths import TargetCost
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.space import SearchSpace


class SpaceLatency:
    """Predicted times of the vectors of a search space, as fractions of the unpruned network's.

    Args:
        latency: Predicted seconds as a function of the widths of the channel groups.
        groups: All channel groups of the network.
    """

    def __init__(self, space: SearchSpace, latency: TargetCost, groups: Sequence[ChannelGroup]) -> None:
        owner = {producer: group.name for group in groups for producer in group.producers}
        self.latency, self.table = latency, space_cost(space).table
        self.names = [sorted({owner[layer] for layer in gene.layers}) for gene in space.genes]

    def fractions(self, indices: np.ndarray) -> np.ndarray:
        """Return the fractions (N,) of scale indices (N, genes)."""
        return np.array([self.latency.of(self._widths(row)) / self.latency.dense for row in indices])

    def _widths(self, indices: Sequence[int]) -> dict[str, int]:
        """Return the width of every channel group."""
        return {name: int(self.table[gene, index]) for gene, index in enumerate(indices) for name in self.names[gene]}
