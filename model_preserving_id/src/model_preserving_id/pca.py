"""PCA: every layer's outputs projected on their leading principal components.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating very deep convolutional networks for classification and detection", 2015,
arXiv 1505.06798 (the linear form, without the asymmetric refinements). y = W x + b with mean mu and components U:
y ~= U U^T (y - mu) + mu, so the first factor is U^T W, the second U, and the bias U U^T b + (Id - U U^T) mu.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.cost import layer_macs
from common.errors import UserError
from common.layers import weight_of
from model_preserving_id.activations import eval_mode
from model_preserving_id.factored import (
    Compressible,
    Ranks,
    choose_ranks,
    compressible_layers,
    count_nonzero,
    with_factors,
)
from model_preserving_id.rows import Gram

POSITIONS = 30_000  # of a layer's outputs: so many are drawn


@dataclass(frozen=True)
class Components:
    """Of a layer's outputs: mean (f,), principal components in columns (f, f) and their variances (f,), descending."""

    mean: Tensor
    vectors: Tensor
    variances: Tensor


@torch.no_grad()
def pca(model: nn.Module, input_shape, inputs: Iterable[Tensor], keep_ratio: float, *, seed: int = 2) -> nn.Module:
    """A new network of ``keep_ratio`` of the parameters, within 0.5 %. input_shape: (C, H, W); inputs: without labels.

    A component is worth its variance, over that of it and all before it, over the MACs of a rank. Raises UserError.
    """
    macs = layer_macs(model, input_shape)
    found = output_components(model, inputs, seed=seed)
    layers = {}
    for name, module in compressible_layers(model):
        rows = module.weight.shape[0] + module.weight[0].numel()
        cost = macs[name] / module.weight.numel() * rows
        s = found[name].variances.cpu().numpy()
        worth = s / np.maximum(np.cumsum(s), np.finfo(np.float64).tiny) / cost
        biases = module.weight.shape[0] if module.bias is None else 0
        layers[name] = Ranks(np.minimum.accumulate(worth), rows, module.weight.numel(), biases)
    ranks = choose_ranks(layers, count_nonzero(model), keep_ratio)
    modules = dict(compressible_layers(model))
    factors = {name: as_layers(modules[name], found[name], rank) for name, rank in ranks.items() if rank is not None}
    return with_factors(model, factors)


@torch.no_grad()
def output_components(model: nn.Module, inputs: Iterable[Tensor], *, seed: int = 2) -> dict[str, Components]:
    """Principal components of each layer's outputs before any nonlinearity, from at most 30,000 drawn positions."""
    layers = dict(compressible_layers(model))
    generator = torch.Generator().manual_seed(seed)
    batches = list(inputs) if not hasattr(inputs, "__len__") else inputs
    share = max(1, POSITIONS // max(1, len(batches)))  # type: ignore[arg-type]
    moments = {name: Moments(module.weight.shape[0]) for name, module in layers.items()}

    def hook_of(name: str):
        def hook(module: nn.Module, _, output: Tensor) -> None:
            rows = (output.movedim(1, -1) if output.dim() == 4 else output).reshape(-1, weight_of(module).shape[0])
            drawn = torch.randperm(len(rows), generator=generator)[:share].to(rows.device)
            moments[name].add(rows.index_select(0, drawn))

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in layers.items()]
    device = next(model.parameters()).device
    try:
        with eval_mode(model):
            for batch in tqdm(batches, desc="principal components", disable=None, leave=False):
                model(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: found.components(name) for name, found in moments.items()}


class Moments:
    """Sum and Gram matrix of rows (m, f), in float64."""

    def __init__(self, width: int) -> None:
        self.gram, self.sum = Gram(width), torch.zeros(width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        self.gram.add(rows)
        self.sum += rows.double().sum(0).cpu()

    def components(self, name: str) -> Components:
        """Raises UserError, naming the layer, if there were no rows."""
        if not self.gram.count:
            raise UserError(f"{name} is not reached by the inputs; give at least one batch")
        mean = self.sum / self.gram.count
        covariance = torch.from_numpy(self.gram.matrix()) / self.gram.count - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)
        return Components(mean, vectors.flip(1), variances.flip(0).clamp(min=0.0))


@torch.no_grad()
def as_layers(module: Compressible, found: Components, rank: int) -> nn.Sequential:
    """The layer as two: U_r^T W in its own geometry without bias, then U_r, 1x1, with the bias that keeps the mean."""
    weight = module.weight
    u = found.vectors[:, :rank].to(weight.device)
    mean = found.mean.to(weight.device)
    before = torch.zeros_like(mean) if module.bias is None else module.bias.double()
    bias = u @ (u.T @ before) + mean - u @ (u.T @ mean)
    first = (u.T @ weight.double().flatten(1)).reshape(rank, *weight.shape[1:])
    one: Compressible
    two: Compressible
    if isinstance(module, nn.Linear):
        one, two = nn.Linear(module.in_features, rank, bias=False), nn.Linear(rank, module.out_features)
        second = u
    else:
        geometry: dict[str, Any] = {
            name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")
        }
        one = nn.Conv2d(module.in_channels, rank, **geometry, bias=False)
        two = nn.Conv2d(rank, module.out_channels, 1)
        second = u[..., None, None]
    one.weight.copy_(first)
    two.weight.copy_(second)
    assert two.bias is not None
    two.bias.copy_(bias)
    return nn.Sequential(one, two)
