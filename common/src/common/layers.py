"""Type annotations for layers: in torch, every attribute of a module has the type ``Tensor | Module``."""

from typing import TypeAlias, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd as Convolution  # any number of dimensions, also transposed

Layer: TypeAlias = nn.Linear | Convolution
M = TypeVar("M", bound=nn.Module)


def weight_of(module: nn.Module) -> nn.Parameter:
    """Return the weight of a layer that has one."""
    return cast(nn.Parameter, module.weight)


def to_device(model: M, device: torch.device | str, memory_format: torch.memory_format = torch.channels_last) -> M:
    """Move a network to a device and a memory format, in place; torch has no type signature for this call."""
    return model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
