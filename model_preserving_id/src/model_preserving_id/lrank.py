"""LRank: truncate every layer's weight to a rank of its own, without data. The paper's training between steps is not included.

Y. Idelbayev, M. A. Carreira-Perpinan, "Low-rank compression of neural nets: learning the rank of each layer", CVPR 2020.
A convolution's weight is read as a matrix (f k1, c k2) and becomes a convolution along rows (1, k2), then one along columns (k1, 1).
"""

from typing import Any

import torch
from torch import Tensor, nn

from common.cost import layer_macs
from model_preserving_id.low_rank import Compressible, LayerRanks, compressible_layers, factorize


@torch.no_grad()
def lrank(model: nn.Module, input_shape, keep_ratio: float) -> nn.Module:
    """Factorize a network to ``keep_ratio`` of its parameters, within 0.5 %.

    The rank r of each layer minimizes lambda MACs(r) + sum_{i > r} s_i^2, with the same lambda for all layers.

    Args:
        input_shape: (C, H, W).

    Raises:
        UserError: With the nearest reachable ratio.
    """
    macs = layer_macs(model, input_shape)
    decomposed, layers = {}, {}
    for name, module in compressible_layers(model):
        u, s, vt = torch.linalg.svd(as_matrix(module).double(), full_matrices=False)
        decomposed[name] = (u, s, vt)
        per_rank = u.shape[0] + vt.shape[1]
        cost = macs_per_rank(module, macs[name])
        layers[name] = LayerRanks((s.square() / cost).cpu().numpy(), per_rank, module.weight.numel())
    return factorize(
        model, layers, keep_ratio, lambda name, module, rank: factor_layer(module, *decomposed[name], rank)
    )


def as_matrix(module: Compressible) -> Tensor:
    """Return the weight as a matrix: (f k1, c k2) for a convolution (f, c, k1, k2), (out, in) for a linear layer."""
    weight = module.weight.detach()
    if weight.dim() == 2:
        return weight
    f, c, k1, k2 = weight.shape
    return weight.permute(0, 2, 1, 3).reshape(f * k1, c * k2)


def macs_per_rank(module: Compressible, macs: int) -> float:
    """Return the MACs of both factors per rank, computed from the layer's MACs."""
    if isinstance(module, nn.Linear):
        return macs / (module.in_features * module.out_features) * (module.in_features + module.out_features)
    f, c, k1, k2 = module.weight.shape
    pixels = macs / (f * c * k1 * k2)
    return pixels * (c * k2 * module.stride[0] + f * k1)  # the first factor reads every row


def factor_layer(module: Compressible, u: Tensor, s: Tensor, vt: Tensor, rank: int) -> nn.Sequential:
    """Split a layer into two of this rank: (1, k2) without bias, then (k1, 1) with the layer's bias; stride and padding by axis."""
    root = s[:rank].sqrt()
    first, second = root[:, None] * vt[:rank], u[:, :rank] * root
    bias = module.bias is not None
    one: Compressible
    two: Compressible
    if isinstance(module, nn.Linear):
        one, two = nn.Linear(module.in_features, rank, bias=False), nn.Linear(rank, module.out_features, bias=bias)
    else:
        f, c, k1, k2 = module.weight.shape
        geometry: tuple[Any, ...] = (module.stride, module.padding, module.dilation)
        (s1, s2), (p1, p2), (d1, d2) = geometry
        one = nn.Conv2d(c, rank, (1, k2), (1, s2), (0, p2), (1, d2), bias=False)
        two = nn.Conv2d(rank, f, (k1, 1), (s1, 1), (p1, 0), (d1, 1), bias=bias)
        first, second = first.reshape(rank, c, 1, k2), second.reshape(f, k1, rank).permute(0, 2, 1)[..., None]
    one.weight.copy_(first)
    two.weight.copy_(second)
    if two.bias is not None and module.bias is not None:
        two.bias.copy_(module.bias)
    return nn.Sequential(one, two)
