"""What PCA and LRank share: which layers are compressible, how many ranks a budget of parameters allows, the replacement.

Each compressed layer becomes two in sequence in its place. A rank costs parameters and is worth something; a threshold on
worth per cost, the same for all layers, is found that meets the budget.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import nn

from common.errors import UserError

Compressible: TypeAlias = nn.Linear | nn.Conv2d
TOLERANCE = 0.005  # of the parameters asked for


@dataclass(frozen=True)
class Ranks:
    """What a layer's ranks are worth (not ascending), weights of a rank and of the whole layer, new biases of the factors."""

    worth: np.ndarray
    per_rank: int
    dense: int
    biases: int = 0

    @property
    def most(self) -> int:
        """The largest rank whose factors have fewer weights than the layer itself; 0 if there is none."""
        return min(len(self.worth), (self.dense - self.biases - 1) // self.per_rank)

    def weights(self, rank: int | None) -> int:
        """Weights at this rank; None: the layer stays as it is."""
        return self.dense if rank is None else rank * self.per_rank + self.biases

    def rank_for(self, threshold: float) -> int | None:
        """How many ranks are worth at least the threshold, at least one; None where factors would not be smaller."""
        rank = max(1, int(np.count_nonzero(self.worth >= threshold)))
        return rank if rank <= self.most else None


def compressible_layers(model: nn.Module) -> Iterator[tuple[str, Compressible]]:
    """Every linear layer and every two-dimensional convolution of one group with zero padding."""
    for name, module in model.named_modules():
        plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        if isinstance(module, nn.Linear) or (plain and not isinstance(module.padding, str)):
            yield name, module


def count_nonzero(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


def choose_ranks(layers: Mapping[str, Ranks], params: int, keep_ratio: float) -> dict[str, int | None]:
    """Ranks whose factored network has ``keep_ratio * params`` parameters within 0.5 %, and not more.

    params: of the network that was handed in. Its parameters outside these layers (biases, norms) stay and count.
    Raises UserError with the nearest ratio that can be reached.
    """
    if not 0 < keep_ratio <= 1:
        raise UserError(
            f"keep_ratio {keep_ratio} is out of range: the fraction of parameters that stays lies in (0, 1]"
        )
    fixed = params - sum(layer.dense for layer in layers.values())
    goal = keep_ratio * params

    def total(ranks: Mapping[str, int | None]) -> int:
        return fixed + sum(layers[name].weights(rank) for name, rank in ranks.items())

    every = np.unique(np.concatenate([layer.worth for layer in layers.values()]))
    low, high = 0, len(every)  # thresholds below every[low] keep too much, every[high] (all ranks 1) does not
    while low < high:
        middle = (low + high) // 2
        if total({name: layer.rank_for(every[middle]) for name, layer in layers.items()}) <= goal:
            high = middle
        else:
            low = middle + 1
    threshold = every[high] if high < len(every) else np.inf
    ranks = _fill({name: layer.rank_for(threshold) for name, layer in layers.items()}, layers, goal, total)
    reached = total(ranks)
    if abs(reached - goal) > TOLERANCE * goal:
        raise UserError(
            f"keep_ratio {keep_ratio:g} cannot be met within {100 * TOLERANCE:g} %; the nearest is {reached / params:.4f}"
        )
    return ranks


def _fill(
    ranks: dict[str, int | None],
    layers: Mapping[str, Ranks],
    goal: float,
    total: Callable[[Mapping[str, int | None]], int],
) -> dict[str, int | None]:
    """Spend what the threshold left over: one rank more, or a layer left whole, as long as it fits; the dearest first."""
    ranks = dict(ranks)
    while True:
        left = goal - total(ranks)
        fits = []
        for name, layer in layers.items():
            rank = ranks[name]
            if rank is None:
                continue
            more = rank + 1 if rank < layer.most else None
            cost = layer.weights(more) - layer.weights(rank)
            if cost <= left:
                fits.append((cost, name, more))
        if not fits:
            return ranks
        _, name, more = max(fits, key=lambda fit: fit[0])
        ranks[name] = more


def with_factors(model: nn.Module, factors: Mapping[str, nn.Sequential]) -> nn.Module:
    """A copy of the network with these layers in the place of its own."""
    smaller = copy.deepcopy(model)
    for name, pair in factors.items():
        like = next(smaller.get_submodule(name).parameters())
        smaller.set_submodule(name, pair.to(like.device, like.dtype))
    return smaller.eval()
