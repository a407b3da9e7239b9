"""Solve a layer's weight by least squares, so that its output plus the residual added to it equals that of the unpruned network.

min_W || Y_0 + S_0 - S - P W^T ||^2 + lambda || W - W_T ||^2 per consumer. P are the patches that the layer reads in the network
being pruned (kept channels only), Y_0 is its output in the unpruned network, S and S_0 are the tensors added to the output (a
residual shortcut) in the two networks, and W_T is the layer's current weight: from ID with T, or that of the kept channels. Batch
norms between layer and sum are inverted. (He, Zhang, Sun 2017, arXiv 1707.06168, extended to residual sums)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.errors import UserError
from common.reconstruction.layers_in_order import LayerCall

RIDGE = 1e-4  # lambda, relative to the mean energy of a column of P
SMALLEST_SCALE = 1e-3  # relative to a batch norm's largest scale; channels below it are not compensated
PART = 64  # examples whose patches are in memory at the same time

Refittable: TypeAlias = nn.Linear | nn.Conv2d


def can_refit(module: nn.Module) -> TypeGuard[Refittable]:
    """Whether the module is a linear layer or an ungrouped two-dimensional convolution with zero padding."""
    if isinstance(module, nn.Linear):
        return True
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


@torch.no_grad()
def refit_weight(
    name: str, module: Refittable, remaining_inputs: Sequence[int], calls: Iterable[tuple[LayerCall, LayerCall]]
) -> None:
    """Solve the weight of one layer in place. Its bias and the columns of removed inputs do not change.

    With fewer rows of patches than columns, the weight is not changed, since it would overfit these images.

    Args:
        module: The layer of that name in the network being pruned.
        remaining_inputs: Input positions that have not been removed, ascending.
        calls: The layer's calls in the unpruned network and in the network being pruned, batch by batch.
    """
    remaining = torch.tensor(remaining_inputs, device=module.weight.device)
    gram = products = None
    count = 0
    for before, now in calls:
        target = before.output()
        if module.bias is not None:
            target = target - broadcast_channels(module.bias, target)
        if before.added is not None and now.added is not None:
            target = target + (before.added - now.added) * broadcast_channels(safe_inverse(now.scale), target)
        for x, y in zip(now.input.split(PART), target.split(PART), strict=True):
            patches = extract_patches(module, x, remaining).double()
            count += len(patches)
            rows = (y.movedim(1, -1) if y.dim() == 4 else y).reshape(len(patches), -1).double()
            gram = patches.T @ patches + (0 if gram is None else gram)
            products = patches.T @ rows + (0 if products is None else products)
    if gram is None or products is None:
        raise UserError(f"{name}: read no inputs; give at least one batch of images")
    if count < len(gram):
        return
    weight = module.weight
    start = weight.index_select(1, remaining).flatten(1).double()  # (o, remaining * kernel)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    solved = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), products + ridge * start.T
    )
    weight.index_copy_(
        1, remaining, solved.T.reshape(weight.shape[0], len(remaining), *weight.shape[2:]).to(weight.dtype)
    )


def remaining_inputs(
    groups: Iterable[ChannelGroup], kept: Mapping[str, Sequence[int]], consumer: str, width: int
) -> list[int]:
    """Return the input positions of a consumer with ``width`` inputs that have not been removed, ascending."""
    removed: set[int] = set()
    for group in groups:
        left = set(kept.get(group.name, range(group.size)))
        for name, positions in group.consumers:
            if name == consumer:
                removed.update(p for c in range(group.size) if c not in left for p in positions[c])
    return [p for p in range(width) if p not in removed]


def extract_patches(module: Refittable, x: Tensor, remaining: Tensor) -> Tensor:
    """Return the rows (m, remaining * kernel) that a layer multiplies by its flattened weight (o, remaining * kernel)."""
    if isinstance(module, nn.Linear):
        return x.index_select(-1, remaining).reshape(-1, len(remaining))
    x = x.index_select(1, remaining)
    assert not isinstance(module.padding, str)
    columns = F.unfold(
        x, module.kernel_size, module.dilation, module.padding, module.stride
    )  # (N, remaining * kernel, L)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def broadcast_channels(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (C,) to multiply outputs (N, C, H, W) or (N, ..., C)."""
    return values.view(1, -1, 1, 1) if like.dim() == 4 else values


def safe_inverse(scale: Tensor) -> Tensor:
    """Return 1 / scale, and 0 where the scale is negligible."""
    usable = scale.abs() > SMALLEST_SCALE * scale.abs().max()
    return torch.where(usable, 1.0 / torch.where(usable, scale, 1.0), 0.0)
