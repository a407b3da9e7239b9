"""Geometry of a layer, known only here: its widths, which dimensions of its tensors they are, how it is resized.

A weight is (outputs, inputs / groups, *kernel): dimension 0 of every tensor is the output, dimension 1 of a weight the input.
A module has a side "in", which it reads, and a side "out", which it produces; normalization layers and depthwise convolutions
change on "both".
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import weight_of
from common.models.shortcut import PadShortcut

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
INPUTS = ("in_channels", "in_features")  # attributes that hold a width
OUTPUTS = ("out_channels", "out_features")
OF_NORMS = ("num_features", "num_channels", "num_parameters")
BY_OUTPUT = ("weight", "bias", "running_mean", "running_var")  # tensors whose dimension 0 is the output


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution keeps each channel to itself, so that it follows the producer of its input."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


def channel_dim(module: nn.Module, x: Tensor) -> int:
    """Dimension of the channels in a module's input ``x``: (N, C, ...), or (N, ..., C) of a linear layer."""
    return x.dim() - 1 if isinstance(module, nn.Linear) else 1


def width(module: nn.Module, side: str) -> int:
    """Number of channels on one side of a module; of an option-A shortcut's input, one past the last that it reads."""
    if isinstance(module, PadShortcut):
        return len(module.source) if side == "out" else int(module.source.max()) + 1
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    names = INPUTS if side == "in" else (*OUTPUTS, *OF_NORMS)
    return next(getattr(module, name) for name in names if hasattr(module, name))


def remove_channels(name: str, module: nn.Module, side: str, removed: Collection[int]) -> None:
    """Remove channels on one side of a module, in place.

    Raises UserError, naming the module, if none would be left or the groups of a convolution would keep different numbers.
    """
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:  # one slope for all channels
        return
    before = width(module, side)
    kept = torch.tensor([i for i in range(before) if i not in removed], dtype=torch.int64)
    if isinstance(module, PadShortcut) and side == "in":  # it may lose all that it reads: then it adds zero
        module.keep_inputs(kept, before)
        return
    if not len(kept):
        raise UserError(f"{name}: no channel would be left; keep at least one")
    if isinstance(module, PadShortcut):
        module.keep_outputs(kept)
        return
    groups = 1 if side == "both" else getattr(module, "groups", 1)
    per_group = before // groups
    if len(kept) % groups or (torch.bincount(kept // per_group, minlength=groups) != len(kept) // groups).any():
        raise UserError(f"{name} has {groups} groups: keep the same number of channels in each run of {per_group}")
    if side == "in":
        columns = (kept % per_group).view(groups, -1)
        blocks = weight_of(module).detach().chunk(groups, dim=0)
        parts = [block.index_select(1, of.to(block.device)) for block, of in zip(blocks, columns, strict=True)]
        _replace(module, "weight", torch.cat(parts))
    else:
        for key, tensor in _own_tensors(module).items():
            if key in BY_OUTPUT:
                _replace(module, key, tensor.detach().index_select(0, kept.to(tensor.device)))
    _set_widths(module, len(kept))


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor], path: object = "the file") -> None:
    """Resize every module, in place, to the shapes of its tensors, so that a dense network can take pruned weights.

    path: where they come from, for messages. Raises UserError for a tensor of another number of dimensions.
    """
    for name, module in model.named_modules():
        own = _own_tensors(module)
        given = {key: tensors[full] for key in own if (full := f"{name}.{key}" if name else key) in tensors}
        for key, tensor in given.items():
            if own[key].dim() != tensor.dim():
                raise UserError(
                    f"{path}: {name}.{key} has {tensor.dim()} dimensions, the network wants {own[key].dim()}"
                )
            if own[key].shape != tensor.shape:
                _replace(module, key, torch.empty(tensor.shape, dtype=own[key].dtype, device=own[key].device))
        leading = given.get("weight", given.get("running_mean"))
        if leading is not None:
            _set_widths(module, len(leading))


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, by name."""
    own = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def _replace(module: nn.Module, key: str, tensor: Tensor) -> None:
    if key in module._parameters:
        requires_grad = module._parameters[key].requires_grad  # type: ignore[union-attr]
        module._parameters[key] = nn.Parameter(tensor, requires_grad=requires_grad)
    else:
        module._buffers[key] = tensor


def _set_widths(module: nn.Module, outputs: int) -> None:
    """Set the numbers that a module keeps next to its tensors: from its weight, or ``outputs`` (normalization layers may have no weight)."""
    if isinstance(module, WEIGHTED):
        weight: Tensor = module.weight
        if is_depthwise(module):
            module.groups = weight.shape[0]
        _set(module, OUTPUTS, weight.shape[0])
        _set(module, INPUTS, weight.shape[1] * getattr(module, "groups", 1))
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape) if module.elementwise_affine else (outputs,)
    else:
        _set(module, OF_NORMS, outputs)


def _set(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if hasattr(module, name):
            setattr(module, name, value)
