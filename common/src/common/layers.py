"""Layers with their types: torch says of each attribute of a module that it is ``Tensor | Module``."""

from typing import TypeAlias, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd as Convolution  # of any number of dimensions, transposed ones too

Layer: TypeAlias = nn.Linear | Convolution
M = TypeVar("M", bound=nn.Module)


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight of a layer that is known to have one."""
    return cast(nn.Parameter, module.weight)


def placed(model: M, device: torch.device | str, memory_format: torch.memory_format = torch.channels_last) -> M:
    """The network, moved in place to a device and a layout at once, for which torch has no signature."""
    return model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
