"""A layer's weight solved by least squares, so that its output plus what is added to it is the original network's.

min_W || Y_0 + S_0 - S - P W^T ||^2 + lambda || W - W_T ||^2 per reading layer: P are the patches that the layer reads in
the network being cut (kept channels only), Y_0 its output in the original network, S and S_0 what is added to the output
(a residual shortcut) in the two networks, W_T the weight that ID with T gives. A norm between layer and sum is undone.
"""

from collections.abc import Iterable
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.layers import weight_of
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.layers_in_order import LayerCall

RIDGE = 1e-4  # lambda, as a share of the mean energy of a column of P
SMALLEST_SCALE = 1e-3  # of a norm's largest: below it a channel's part of the sum cannot be made good
PART = 64  # examples whose patches are held at once

Refittable: TypeAlias = nn.Linear | nn.Conv2d


def can_refit(module: nn.Module) -> bool:
    """Linear layers, and two-dimensional convolutions of one group with zero padding."""
    if isinstance(module, nn.Linear):
        return True
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


@torch.no_grad()
def refit_weight(folded: FoldedNetwork, consumer: str, calls: Iterable[tuple[LayerCall, LayerCall]]) -> None:
    """Solve the weight of one consumer in place; its bias and the input channels that are gone are left as they are.

    calls: its calls in the original network and in the one being pruned, batch by batch. With fewer rows of patches than inputs to
    weigh, the weight stays as it is: it would learn these pictures by heart.
    """
    module = cast(Refittable, folded.model.get_submodule(consumer))
    live = torch.tensor(live_inputs(folded, consumer), device=module.weight.device)
    gram = products = None
    count = 0
    for before, now in calls:
        target = before.output()
        if module.bias is not None:
            target = target - along_channels(module.bias, target)
        if before.added is not None and now.added is not None:
            target = target + (before.added - now.added) * along_channels(inverse(now.scale), target)
        for x, y in zip(now.input.split(PART), target.split(PART), strict=True):
            patches = patches_read(module, x, live).double()
            count += len(patches)
            rows = (y.movedim(1, -1) if y.dim() == 4 else y).reshape(len(patches), -1).double()
            gram = patches.T @ patches + (0 if gram is None else gram)
            products = patches.T @ rows + (0 if products is None else products)
    if gram is None or products is None:
        raise UserError(f"{consumer} read nothing; give at least one batch of inputs")
    if count < len(gram):
        return
    weight = module.weight
    start = weight.index_select(1, live).flatten(1).double()  # (o, live * kernel)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    solved = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), products + ridge * start.T
    )
    weight.index_copy_(1, live, solved.T.reshape(weight.shape[0], len(live), *weight.shape[2:]).to(weight.dtype))


def live_inputs(folded: FoldedNetwork, consumer: str) -> list[int]:
    """The input positions of a consumer that no cut has taken away, ascending."""
    gone: set[int] = set()
    for one in folded.all_readings():
        if one.consumer == consumer and one.group in folded.kept:
            kept = set(folded.kept[one.group])
            gone.update(int(p) for c in range(one.size) if c not in kept for p in one.positions[c])
    width = weight_of(folded.model.get_submodule(consumer)).shape[1]
    return [p for p in range(width) if p not in gone]


def patches_read(module: Refittable, x: Tensor, live: Tensor) -> Tensor:
    """Rows (m, live * kernel) that a layer multiplies with its weight (o, live, *kernel) flattened from the second axis."""
    if isinstance(module, nn.Linear):
        return x.index_select(-1, live).reshape(-1, len(live))
    x = x.index_select(1, live)
    assert not isinstance(module.padding, str)
    columns = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # (N, live * kernel, L)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) shaped to multiply outputs (N, C, H, W) or (N, ..., C)."""
    return values.view(1, -1, 1, 1) if like.dim() == 4 else values


def inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where the scale is next to nothing."""
    usable = scale.abs() > SMALLEST_SCALE * scale.abs().max()
    return torch.where(usable, 1.0 / torch.where(usable, scale, 1.0), 0.0)
