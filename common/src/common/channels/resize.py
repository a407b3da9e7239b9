"""Widths of layers and their resizing; no other module knows which dimensions of a layer's tensors are channels.

A weight is (outputs, inputs / groups, *kernel): dimension 0 of every tensor is the output, dimension 1 of a weight the
input. A module has an input side "in" and an output side "out"; normalization layers and depthwise convolutions change
on "both".
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import weight_of
from common.models.shortcut import PadShortcut
from common.tied import tie, tied_parameters

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMALIZATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.PReLU,
)
INPUTS = ("in_channels", "in_features")  # attributes that hold a width
OUTPUTS = ("out_channels", "out_features")
NORMALIZATION_WIDTHS = ("num_features", "num_channels", "num_parameters")
BY_OUTPUT = ("weight", "bias", "running_mean", "running_var")  # tensors whose dimension 0 is the output


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a module is a depthwise convolution, whose channels are those of its input's producer."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


def channel_dim(module: nn.Module, x: Tensor) -> int:
    """Return the channel dimension of a module's input ``x``: (N, C, ...), or (N, ..., C) for a linear layer."""
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        return x.dim() - 1
    return x.dim() - 1 - len(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 1


def width(module: nn.Module, side: str) -> int:
    """Return the number of channels on one side of a module; for an option-A shortcut's input, the last one read + 1."""
    if isinstance(module, PadShortcut):
        return len(module.source) if side == "out" else int(module.source.max()) + 1
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    names = INPUTS if side == "in" else (*OUTPUTS, *NORMALIZATION_WIDTHS)
    return next(getattr(module, name) for name in names if hasattr(module, name))


def remove_channels(name: str, module: nn.Module, side: str, removed: Collection[int]) -> None:
    """Remove channels on one side of a module, in place.

    Raises UserError, naming the module, if no channel would be left or the groups of a convolution would keep different
    numbers.
    """
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:  # one slope for all channels
        return
    before = width(module, side)
    kept = torch.tensor([i for i in range(before) if i not in removed], dtype=torch.int64)
    if isinstance(module, PadShortcut) and side == "in":  # may lose all inputs: its output is zero then
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
        raise UserError(f"{name} has {groups} groups: keep the same number of channels in each block of {per_group}")
    if side == "in":
        columns = (kept % per_group).view(groups, -1)
        blocks = weight_of(module).detach().chunk(groups, dim=0)
        parts = [block.index_select(1, of.to(block.device)) for block, of in zip(blocks, columns, strict=True)]
        _replace(module, "weight", torch.cat(parts))
    else:
        for key, tensor in own_tensors(module).items():
            if key in BY_OUTPUT:
                _replace(module, key, tensor.detach().index_select(0, kept.to(tensor.device)))
    _set_widths(module, len(kept))


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor], path: object = "the file") -> None:
    """Resize all modules, in place, to the shapes of the given tensors, so that a dense network can load pruned weights.

    path: source of the tensors, for messages. Raises UserError for a tensor with another number of dimensions, and for
    tensors of one module with different numbers of channels. Tied weights of the same shape stay tied.
    """
    ties = tied_parameters(model)
    for name, module in model.named_modules():
        own = own_tensors(module)
        given = {key: tensors[full] for key in own if (full := f"{name}.{key}" if name else key) in tensors}
        for key, tensor in given.items():
            if own[key].dim() != tensor.dim():
                raise UserError(
                    f"{path}: {name}.{key} has {tensor.dim()} dimensions, the network expects {own[key].dim()}"
                )
            if own[key].shape != tensor.shape:
                _replace(module, key, torch.empty(tensor.shape, dtype=own[key].dtype, device=own[key].device))
        leading = given.get("weight", given.get("running_mean"))
        if leading is not None:
            _check_lengths(name, module, path)
            _set_widths(module, len(leading))
    tie(model, ties, any_values=True)


def _check_lengths(name: str, module: nn.Module, path: object) -> None:
    """Raise UserError if the tensors of a resized module do not have one number of output channels."""
    if not isinstance(module, (*WEIGHTED, *NORMALIZATIONS)):
        return
    shapes = {key: tensor.shape for key, tensor in own_tensors(module).items() if key in BY_OUTPUT}
    (first, shape), *others = shapes.items()
    for key, other in others:
        if other[:1] != shape[:1]:
            raise UserError(
                f"{path}: {name}.{first} has {shape[0]} channels, {name}.{key} has {other[0]}; the file is damaged"
            )
    groups = getattr(module, "groups", 1)
    if groups > 1 and not is_depthwise(module) and shape[0] % groups:
        raise UserError(f"{path}: {name} has {shape[0]} channels in {groups} groups; the file is damaged")


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of the module itself, by name."""
    own = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def _replace(module: nn.Module, key: str, tensor: Tensor) -> None:
    if key in module._parameters:
        requires_grad = module._parameters[key].requires_grad  # type: ignore[union-attr]
        module._parameters[key] = nn.Parameter(tensor, requires_grad=requires_grad)
    else:
        module._buffers[key] = tensor


def _set_widths(module: nn.Module, outputs: int) -> None:
    """Set a module's width attributes from its weight; those of a normalization layer, which may have none, to ``outputs``."""
    if isinstance(module, WEIGHTED):
        weight: Tensor = module.weight
        if is_depthwise(module):
            module.groups = weight.shape[0]
        _set(module, OUTPUTS, weight.shape[0])
        _set(module, INPUTS, weight.shape[1] * getattr(module, "groups", 1))
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape) if module.elementwise_affine else (outputs,)
    else:
        _set(module, NORMALIZATION_WIDTHS, outputs)


def _set(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if hasattr(module, name):
            setattr(module, name, value)
