"""Residual streams (the channels summed by a stage's skip connections) and the option-A shortcuts between them."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.channels.shortcuts import as_convolution
from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import capture_inputs
from model_preserving_id.settings import RESIDUAL_MODES


def is_residual_stream(group: ChannelGroup) -> bool:
    """Whether the channels are a sum of several layers' outputs."""
    return len(group.producers) > 1


def find_shortcuts(model: nn.Module, group: ChannelGroup) -> list[str]:
    """Return the names of the option-A shortcuts that read a group."""
    return [name for name, _ in group.consumers if isinstance(model.get_submodule(name), PadShortcut)]


def copy_network(model: nn.Module, example: Tensor, residual: str, share_tensors: bool = False) -> nn.Module:
    """Copy a network; with ``conv``, each option-A shortcut is replaced by the equivalent 1x1 convolution.

    share_tensors: Use the given network's tensors in the copy, which must then not be modified.
    """
    if residual not in RESIDUAL_MODES:
        raise UserError(f"--residual {residual}: expected one of {', '.join(RESIDUAL_MODES)}")
    own = (*model.parameters(), *model.buffers()) if share_tensors else ()
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in own})
    if residual == "conv":
        for name, width in _input_widths(model, example).items():
            layer = as_convolution(cast(PadShortcut, model.get_submodule(name)), width)
            model.set_submodule(name, layer.to(next(model.parameters()).dtype))
    return model


@torch.no_grad()
def _input_widths(model: nn.Module, example: Tensor) -> dict[str, int]:
    widths: dict[str, int] = {}
    names = [name for name, module in model.named_modules() if isinstance(module, PadShortcut)]
    with capture_inputs(
        model, names, lambda _, name, x: widths.__setitem__(name, x.shape[1]), run_to_end=True
    ) as forward:
        forward(example[:1])
    return widths
