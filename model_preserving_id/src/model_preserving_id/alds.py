"""ALDS: split each layer's input channels into groups, factor each group by an SVD, choose groups and ranks for all layers at once.

L. Liebenwein, A. Maalouf, D. Feldman, D. Rus, "Compressing neural networks: towards determining the optimal layer-wise
decomposition", NeurIPS 2021 (arXiv 2107.11442). With k groups of rank j, theorem 1 bounds the relative error of a weight W by
sqrt(k) max_i sigma_{j+1}(W_i) / ||W||; algorithm 1 minimizes the largest bound of all layers. No data are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_preserving_id.low_rank import (
    Compressible,
    LayerRanks,
    choose_ranks,
    compressible_layers,
    count_nonzero,
    replace_layers,
)

RESTARTS = 15  # random initial numbers of groups, in addition to one group in every layer
MAX_GROUPS = 16
ROUNDS = 20  # alternations of ranks and groups; a few suffice


@dataclass(frozen=True)
class Grouping:
    """One layer with its input channels split into groups of equal size.

    Attributes:
        groups: Number of groups.
        errors: Bound of the relative error at every rank j = 0, 1, ... per group.
        per_rank: Weights of both factors per rank.
        dense: Weights of the layer itself.
    """

    groups: int
    errors: np.ndarray
    per_rank: int
    dense: int

    @property
    def ranks(self) -> LayerRanks:
        """Ranks for :func:`choose_ranks`; the importance of a rank is the error without it."""
        return LayerRanks(self.errors[:-1], self.per_rank, self.dense)

    def error_for(self, weights: int) -> float:
        """Return the bound at the largest rank that this number of weights allows, at least one."""
        return float(self.errors[min(max(1, weights // self.per_rank), len(self.errors) - 1)])


@torch.no_grad()
def alds(model: nn.Module, keep_ratio: float, *, restarts: int = RESTARTS, seed: int = 0) -> nn.Module:
    """Factorize a network to ``keep_ratio`` of its parameters, within 0.5 %.

    Args:
        restarts: Number of random initializations of algorithm 1.

    Raises:
        UserError: With the nearest reachable ratio.
    """
    layers = dict(compressible_layers(model))
    choices = {name: groupings(module) for name, module in layers.items()}
    params, rng = count_nonzero(model), np.random.default_rng(seed)
    best, chosen, ranks = _alternate(
        choices, {name: options[0] for name, options in choices.items()}, params, keep_ratio
    )
    for _ in range(restarts):
        start = {name: options[int(rng.integers(len(options)))] for name, options in choices.items()}
        found = _alternate(choices, start, params, keep_ratio)
        if found[0] < best:
            best, chosen, ranks = found
    return replace_layers(model, ranks, lambda name, module, rank: factor_layer(module, chosen[name].groups, rank))


def groupings(module: Compressible) -> list[Grouping]:
    """List the allowed numbers of groups, one first: divisors of the input channels; a linear layer has one group."""
    channels = module.weight.shape[1]
    largest = 1 if isinstance(module, nn.Linear) else min(channels, MAX_GROUPS)
    return [_grouping(module, groups) for groups in range(1, largest + 1) if channels % groups == 0]


def _grouping(module: Compressible, groups: int) -> Grouping:
    weight = module.weight.detach().double()
    parts = split_channels(weight, groups)
    values = torch.linalg.svdvals(parts).amax(0)
    norm = torch.linalg.matrix_norm(weight.flatten(1), 2).clamp_min(torch.finfo(weight.dtype).tiny)
    errors = torch.cat([values, values.new_zeros(1)]) * groups**0.5 / norm
    return Grouping(groups, errors.cpu().numpy(), groups * weight.shape[0] + weight[0].numel(), weight.numel())


def split_channels(weight: Tensor, groups: int) -> Tensor:
    """Return a weight (f, c, ...) as one matrix per group of input channels, (groups, f, c / groups * ...)."""
    return weight.flatten(1).unflatten(1, (groups, -1)).transpose(0, 1)


def _alternate(
    choices: Mapping[str, Sequence[Grouping]], start: Mapping[str, Grouping], params: int, keep_ratio: float
) -> tuple[float, dict[str, Grouping], dict[str, int | None]]:
    """Run algorithm 1 from one start until the bound no longer decreases: (largest error bound, groups, ranks)."""
    best: tuple[float, dict[str, Grouping], dict[str, int | None]] | None = None
    chosen = dict(start)
    for _ in range(ROUNDS):
        ranks = choose_ranks({name: choice.ranks for name, choice in chosen.items()}, params, keep_ratio)
        error = max((float(chosen[name].errors[rank]) for name, rank in ranks.items() if rank is not None), default=0.0)
        if best is not None and error >= best[0]:
            break
        best = error, chosen, ranks
        spent = {name: chosen[name].ranks.weights(rank) for name, rank in ranks.items() if rank is not None}
        chosen = chosen | {
            name: min(choices[name], key=lambda choice: choice.error_for(weights)) for name, weights in spent.items()
        }
    assert best is not None
    return best


@torch.no_grad()
def factor_layer(module: Compressible, groups: int, rank: int) -> nn.Sequential:
    """Split a layer into two: a grouped one without bias, then one of kernel size 1 with the layer's bias."""
    weight = module.weight.detach()
    u, s, vt = torch.linalg.svd(split_channels(weight.double(), groups), full_matrices=False)
    root = s[:, :rank].sqrt()
    first = (root[..., None] * vt[:, :rank]).flatten(0, 1)  # (groups rank, c / groups ...)
    second = (u[..., :rank] * root[:, None]).transpose(0, 1).flatten(1)  # (f, groups rank)
    outputs, inner, bias = weight.shape[0], groups * rank, module.bias is not None
    one: Compressible
    two: Compressible
    if isinstance(module, nn.Linear):
        one, two = nn.Linear(module.in_features, inner, bias=False), nn.Linear(inner, outputs, bias=bias)
    else:
        geometry: Any = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        one = nn.Conv2d(module.in_channels, inner, **geometry, groups=groups, bias=False)
        two = nn.Conv2d(inner, outputs, 1, bias=bias)
    one.weight.copy_(first.reshape(one.weight.shape))
    two.weight.copy_(second.reshape(two.weight.shape))
    if two.bias is not None and module.bias is not None:
        two.bias.copy_(module.bias)
    return nn.Sequential(one, two)
