"""PCA: project every layer's outputs onto their leading principal components.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating very deep convolutional networks for classification and detection", 2015,
arXiv 1505.06798 (the linear form, without the asymmetric refinements). For y = W x + b with mean mu and components U:
y ~= U U^T (y - mu) + mu, hence the first factor is U^T W, the second U, and the bias U U^T b + (Id - U U^T) mu.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cost import layer_macs
from common.errors import UserError
from common.layers import weight_of
from common.progress import track
from model_preserving_id.activations import eval_mode
from model_preserving_id.gram import Gram
from model_preserving_id.low_rank import Compressible, LayerRanks, compressible_layers, factorize

POSITIONS = 30_000  # number of sampled output positions per layer


@dataclass(frozen=True)
class Components:
    """Mean (f,) of a layer's outputs, principal components in columns (f, f) and their variances (f,), descending."""

    mean: Tensor
    vectors: Tensor
    variances: Tensor


@torch.no_grad()
def pca(model: nn.Module, input_shape, inputs: Iterable[Tensor], keep_ratio: float, *, seed: int = 2) -> nn.Module:
    """Factorize a network to ``keep_ratio`` of its parameters, within 0.5 %.

    The importance of component i is s_i / (s_1 + ... + s_i) per MAC of a rank, where s are the variances.

    Args:
        input_shape: (C, H, W).
        inputs: Batches of images, without labels.

    Raises:
        UserError: With the nearest reachable ratio, or if a layer has no outputs.
    """
    macs = layer_macs(model, input_shape)
    found = output_components(model, inputs, seed=seed)
    layers = {}
    for name, module in compressible_layers(model):
        rows = module.weight.shape[0] + module.weight[0].numel()
        cost = macs[name] / module.weight.numel() * rows
        s = found[name].variances.cpu().numpy()
        importance = s / np.maximum(np.cumsum(s), np.finfo(np.float64).tiny) / cost
        biases = module.weight.shape[0] if module.bias is None else 0
        layers[name] = LayerRanks(np.minimum.accumulate(importance), rows, module.weight.numel(), biases)
    return factorize(model, layers, keep_ratio, lambda name, module, rank: factor_layer(module, found[name], rank))


@torch.no_grad()
def output_components(model: nn.Module, inputs: Iterable[Tensor], *, seed: int = 2) -> dict[str, Components]:
    """Compute principal components of each layer's outputs before any nonlinearity, from at most 30,000 sampled positions."""
    layers = dict(compressible_layers(model))
    generator = torch.Generator().manual_seed(seed)
    batches = list(inputs) if not hasattr(inputs, "__len__") else inputs
    per_batch = max(1, POSITIONS // max(1, len(batches)))  # type: ignore[arg-type]
    moments = {name: Moments(module.weight.shape[0]) for name, module in layers.items()}

    def hook_of(name: str):
        def hook(module: nn.Module, _, output: Tensor) -> None:
            rows = (output.movedim(1, -1) if output.dim() == 4 else output).reshape(-1, weight_of(module).shape[0])
            sample = torch.randperm(len(rows), generator=generator)[:per_batch].to(rows.device)
            moments[name].add(rows.index_select(0, sample))

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in layers.items()]
    device = next(model.parameters()).device
    try:
        with eval_mode(model):
            for batch in track(batches, "principal components"):
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
        """Add rows (m, f)."""
        self.gram.add(rows)
        self.sum += rows.double().sum(0).cpu()

    def components(self, name: str) -> Components:
        """Return the principal components. Raises UserError, with the layer's name, if there were no rows."""
        if not self.gram.count:
            raise UserError(f"{name}: the layer has no outputs; give at least one batch of images")
        mean = self.sum / self.gram.count
        covariance = torch.from_numpy(self.gram.matrix()) / self.gram.count - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)
        return Components(mean, vectors.flip(1), variances.flip(0).clamp(min=0.0))


@torch.no_grad()
def factor_layer(module: Compressible, found: Components, rank: int) -> nn.Sequential:
    """Split a layer into two: U_r^T W with the layer's kernel, without bias, then U_r (1x1) with the bias that preserves the mean."""
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
