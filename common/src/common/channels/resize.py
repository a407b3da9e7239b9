"""Widths of layers and their resizing; no other module knows which dimensions of a layer's tensors are channels.

A weight is (outputs, inputs / groups, *kernel): dimension 0 of every tensor is the output, dimension 1 of a weight the
input; that of a transposed convolution is (inputs, outputs / groups, *kernel). A module has an input side "in" and an
output side "out"; normalization layers and depthwise convolutions change on "both". Other modules may have a parameter with
a value for each channel ("<name>[<dimension>]"), or record their number ("counts <number>").
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from common.channels.attention import ATTENTIONS, HeadAttention
from common.errors import UserError
from common.layers import weight_of
from common.models.shortcut import PadShortcut
from common.tied import tie, tied_parameters

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
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
HEADS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads")  # attributes that count heads
HEAD_WIDTHS = ("attn_dim", "inner_dim", "all_head_size", "key_attn_dim", "val_attn_dim")  # width of all heads together
WIDTHS = ("hidden_dim", "embed_dim", "num_features", "dim")  # attributes that hold the width of a residual stream
COUNTS = (*HEADS, *HEAD_WIDTHS, *WIDTHS)
BY_OUTPUT = ("weight", "bias", "running_mean", "running_var")  # tensors whose dimension 0 is the output


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a module is a depthwise convolution, whose channels are those of its input's producer."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


def channel_dim(module: nn.Module, x: Tensor) -> int:
    """Return the channel dimension of a module's input ``x``: (N, C, ...), or (N, ..., C) for a linear layer."""
    if isinstance(module, (nn.Linear, *ATTENTIONS)):
        return x.dim() - 1
    if isinstance(module, nn.LayerNorm):
        return 1 if x.dim() > 2 and _normalizes_dimension_1(module) else x.dim() - 1
    return x.dim() - 1 - len(module.kernel_size) if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) else 1


def _normalizes_dimension_1(module: nn.LayerNorm) -> bool:
    """Return whether a layer norm of another type than torch's reads channels at dimension 1, by trying."""
    if type(module).forward is nn.LayerNorm.forward or len(module.normalized_shape) != 1:
        return False
    channels = module.normalized_shape[0]
    like = next(iter(own_tensors(module).values()), torch.zeros(()))
    try:
        with torch.no_grad():
            type(module).forward(
                module, torch.zeros(1, channels, 2, channels + 1, dtype=like.dtype, device=like.device)
            )
    except Exception:  # of any kind: the layer does not accept the shape
        return False
    return True


def width(module: nn.Module, side: str) -> int:
    """Return the number of channels on one side of a module; for an option-A shortcut's input, the last one read + 1."""
    if isinstance(module, PadShortcut):
        return len(module.source) if side == "out" else int(module.source.max()) + 1
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    if isinstance(module, ATTENTIONS):
        return module.embed_dim if side == "in" else len(module.in_proj_weight)
    names = INPUTS if side == "in" else (*OUTPUTS, *NORMALIZATION_WIDTHS)
    return next(getattr(module, name) for name in names if hasattr(module, name))


def output_rows(module: nn.Module) -> Tensor:
    """Return the weights of a layer by output: (C_out, ...)."""
    if isinstance(module, ATTENTIONS):
        return module.in_proj_weight
    weight = weight_of(module)
    if isinstance(module, TRANSPOSED):  # (C_in, C_out / groups, ...)
        return weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight


def parameter_side(key: str, dim: int) -> str:
    """Return the side of a module that is a dimension of one of its parameters or buffers."""
    return f"{key}[{dim}]"


def remove_channels(name: str, module: nn.Module, side: str, removed: Collection[int]) -> None:
    """Remove channels on one side of a module, in place.

    Raises UserError, naming the module, if no channel would be left or the groups of a convolution would keep different
    numbers.
    """
    if side.startswith("across"):  # no tensor has these channels
        return
    if side.startswith("counts"):
        size = int(side.removeprefix("counts "))
        _change_counts(module, size, size - len(removed))
        return
    if side.endswith("]"):
        key, _, dim = side[:-1].partition("[")
        tensor = own_tensors(module)[key].detach()
        left = [i for i in range(tensor.shape[int(dim)]) if i not in removed]
        _replace(module, key, tensor.index_select(int(dim), torch.tensor(left, device=tensor.device)))
        return
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
    if isinstance(module, nn.GroupNorm):
        _check_norm_groups(name, kept, before // module.num_groups)
    if isinstance(module, HeadAttention):
        _remove_from_attention(module, side, kept)
        return
    transposed = isinstance(module, TRANSPOSED)
    if side == "in" or (transposed and side == "out"):
        columns = (kept % per_group).view(groups, -1)
        weight = weight_of(module).detach()
        if transposed and side == "in":
            _replace(module, "weight", weight.index_select(0, kept.to(weight.device)))
        else:
            blocks = weight.chunk(groups, dim=0)
            parts = [block.index_select(1, of.to(block.device)) for block, of in zip(blocks, columns, strict=True)]
            _replace(module, "weight", torch.cat(parts))
            bias = own_tensors(module).get("bias")
            if transposed and bias is not None:
                _replace(module, "bias", bias.detach().index_select(0, kept.to(bias.device)))
    else:
        for key, tensor in own_tensors(module).items():
            if key in BY_OUTPUT:
                _replace(module, key, tensor.detach().index_select(0, kept.to(tensor.device)))
    _set_widths(module, len(kept))


def _check_norm_groups(name: str, kept: Tensor, per_group: int) -> None:
    """Raise UserError unless the groups of a group norm are complete or removed."""
    counts = torch.bincount(kept // per_group)
    if not bool(((counts == 0) | (counts == per_group)).all()):
        raise UserError(f"{name} normalizes {per_group} channels together: keep all or none of each {per_group}")


def count_keys(module: nn.Module, size: int) -> list[str]:
    """Return the attributes by which a module that is no layer records that it has ``size`` heads or channels."""
    if isinstance(module, (*WEIGHTED, *NORMALIZATIONS, *ATTENTIONS)):
        return []
    return [key for key in (*HEADS, *WIDTHS) if type(vars(module).get(key)) is int and vars(module)[key] == size]


def _change_counts(module: nn.Module, before: int, after: int) -> None:
    """Change what a module records of its numbers of heads or channels, in place."""
    keys = count_keys(module, before)
    for key in keys:
        setattr(module, key, after)
    for key in HEAD_WIDTHS if any(key in HEADS for key in keys) else ():
        size = vars(module).get(key)
        if type(size) is int and size % before == 0:
            setattr(module, key, size // before * after)


def _remove_from_attention(module: HeadAttention, side: str, kept: Tensor) -> None:
    for key, dim in (("in_proj_weight", 1),) if side == "in" else (("in_proj_weight", 0), ("in_proj_bias", 0)):
        tensor = module._parameters[key]
        if tensor is not None:
            _replace(module, key, tensor.detach().index_select(dim, kept.to(tensor.device)))


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
    shapes: dict[str, tuple[int, ...]] = {
        key: tuple(tensor.shape) for key, tensor in own_tensors(module).items() if key in BY_OUTPUT
    }
    if isinstance(module, TRANSPOSED):
        shapes["weight"] = (shapes["weight"][1] * module.groups, *shapes["weight"][1:])
    (first, shape), *others = shapes.items()
    for key, other in others:
        if other[0] != shape[0]:
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
    if isinstance(module, TRANSPOSED):
        _set(module, INPUTS, module.weight.shape[0])
        _set(module, OUTPUTS, module.weight.shape[1] * module.groups)
    elif isinstance(module, WEIGHTED):
        weight: Tensor = module.weight
        if is_depthwise(module):
            module.groups = weight.shape[0]
        _set(module, OUTPUTS, weight.shape[0])
        _set(module, INPUTS, weight.shape[1] * getattr(module, "groups", 1))
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape) if module.elementwise_affine else (outputs,)
    else:
        if isinstance(module, nn.GroupNorm):  # a group keeps its number of channels
            module.num_groups = outputs // (module.num_channels // module.num_groups)
        _set(module, NORMALIZATION_WIDTHS, outputs)


def _set(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if hasattr(module, name):
            setattr(module, name, value)
