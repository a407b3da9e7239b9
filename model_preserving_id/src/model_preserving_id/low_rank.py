"""Low-rank factorization, as used by PCA, LRank and ALDS: compressible layers, rank selection and replacement.

Each compressed layer is replaced by two layers in sequence. All layers use the same threshold on the importance of a rank; the
threshold is chosen to meet a target number of parameters.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import nn

from common.errors import UserError

Compressible: TypeAlias = nn.Linear | nn.Conv2d
TOLERANCE = 0.005  # relative, of the target number of parameters


@dataclass(frozen=True)
class LayerRanks:
    """Importance and cost of one layer's ranks.

    Attributes:
        importance: Importance of each rank, non-increasing.
        per_rank: Weights of both factors per rank.
        dense: Weights of the layer itself.
        biases: Biases that the factors add.
    """

    importance: np.ndarray
    per_rank: int
    dense: int
    biases: int = 0

    @property
    def max_rank(self) -> int:
        """Largest rank whose factors have fewer weights than the layer itself; 0 if there is none."""
        return min(len(self.importance), (self.dense - self.biases - 1) // self.per_rank)

    def weights(self, rank: int | None) -> int:
        """Return the number of weights at this rank; None: the layer is not factorized."""
        return self.dense if rank is None else rank * self.per_rank + self.biases

    def rank_for(self, threshold: float) -> int | None:
        """Return the number of ranks with at least this importance, at least one; None if the factors would not be smaller."""
        rank = max(1, int(np.count_nonzero(self.importance >= threshold)))
        return rank if rank <= self.max_rank else None


def compressible_layers(model: nn.Module) -> Iterator[tuple[str, Compressible]]:
    """Yield every linear layer and every ungrouped two-dimensional convolution with zero padding."""
    for name, module in model.named_modules():
        plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        if isinstance(module, nn.Linear) or (plain and not isinstance(module.padding, str)):
            yield name, module


def count_nonzero(model: nn.Module) -> int:
    """Count the nonzero parameters."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


def choose_ranks(layers: Mapping[str, LayerRanks], params: int, keep_ratio: float) -> dict[str, int | None]:
    """Choose ranks such that the factorized network has ``keep_ratio * params`` parameters, at most 0.5 % fewer.

    Args:
        params: Parameters of the given network, including those outside these layers (biases, normalization layers).

    Raises:
        UserError: With the nearest reachable ratio.
    """
    if not 0 < keep_ratio <= 1:
        raise UserError(f"keep_ratio {keep_ratio} is out of range: expected a fraction of the parameters in (0, 1]")
    fixed = params - sum(layer.dense for layer in layers.values())
    goal = keep_ratio * params

    def total(ranks: Mapping[str, int | None]) -> int:
        return fixed + sum(layers[name].weights(rank) for name, rank in ranks.items())

    every = np.unique(np.concatenate([layer.importance for layer in layers.values()]))
    low, high = (
        0,
        len(every),
    )  # thresholds below every[low] keep too many parameters; every[high] (all ranks 1) does not
    while low < high:
        middle = (low + high) // 2
        if total({name: layer.rank_for(every[middle]) for name, layer in layers.items()}) <= goal:
            high = middle
        else:
            low = middle + 1
    threshold = every[high] if high < len(every) else np.inf
    ranks = _use_remaining_params(
        {name: layer.rank_for(threshold) for name, layer in layers.items()}, layers, goal, total
    )
    reached = total(ranks)
    if abs(reached - goal) > TOLERANCE * goal:
        raise UserError(
            f"keep_ratio {keep_ratio:g} cannot be met within {100 * TOLERANCE:g} %; the nearest is {reached / params:.4f}"
        )
    return ranks


def _use_remaining_params(
    ranks: dict[str, int | None],
    layers: Mapping[str, LayerRanks],
    goal: float,
    total: Callable[[Mapping[str, int | None]], int],
) -> dict[str, int | None]:
    """Add ranks, or restore layers, while they fit into the remaining parameters; the most expensive first."""
    ranks = dict(ranks)
    while True:
        left = goal - total(ranks)
        fits = []
        for name, layer in layers.items():
            rank = ranks[name]
            if rank is None:
                continue
            more = rank + 1 if rank < layer.max_rank else None
            cost = layer.weights(more) - layer.weights(rank)
            if cost <= left:
                fits.append((cost, name, more))
        if not fits:
            return ranks
        _, name, more = max(fits, key=lambda fit: fit[0])
        ranks[name] = more


def factorize(
    model: nn.Module,
    layers: Mapping[str, LayerRanks],
    keep_ratio: float,
    split: Callable[[str, Compressible, int], nn.Sequential],
) -> nn.Module:
    """Copy a network with its layers replaced by factors, to ``keep_ratio`` of the parameters within 0.5 %.

    Args:
        split: Returns the two factors of a layer from its name, the layer and a rank.

    Raises:
        UserError: With the nearest reachable ratio.
    """
    return replace_layers(model, choose_ranks(layers, count_nonzero(model), keep_ratio), split)


def replace_layers(
    model: nn.Module, ranks: Mapping[str, int | None], split: Callable[[str, Compressible, int], nn.Sequential]
) -> nn.Module:
    """Copy a network, in eval mode, with every layer that has a rank replaced by its two factors."""
    smaller = copy.deepcopy(model)
    for name, module in list(compressible_layers(model)):
        rank = ranks[name]
        if rank is not None:
            smaller.set_submodule(name, split(name, module, rank).to(module.weight.device, module.weight.dtype))
    return smaller.eval()
