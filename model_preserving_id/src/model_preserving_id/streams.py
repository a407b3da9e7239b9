"""Residual streams: which groups they are, and the option-A shortcuts between them."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.channels.shortcuts import as_convolution
from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import watch
from model_preserving_id.settings import STREAMS


def is_stream(group: ChannelGroup) -> bool:
    """Whether several layers add into these channels."""
    return len(group.producers) > 1


def shortcuts_of(model: nn.Module, group: ChannelGroup) -> list[str]:
    """The option-A shortcuts that read a group."""
    return [name for name, _ in group.consumers if isinstance(model.get_submodule(name), PadShortcut)]


def prepare_streams(model: nn.Module, example: Tensor, streams: str, share: bool = False) -> nn.Module:
    """A copy to work on; with ``conv`` every option-A shortcut in it is the convolution that computes the same.

    share: the copy's tensors are the given network's own (it is for reading only).
    """
    if streams not in STREAMS:
        raise UserError(f"--streams {streams}: expected one of {', '.join(STREAMS)}")
    own = (*model.parameters(), *model.buffers()) if share else ()
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in own})
    if streams == "conv":
        for name, width in _input_widths(model, example).items():
            layer = as_convolution(cast(PadShortcut, model.get_submodule(name)), width)
            model.set_submodule(name, layer.to(next(model.parameters()).dtype))
    return model


@torch.no_grad()
def _input_widths(model: nn.Module, example: Tensor) -> dict[str, int]:
    widths: dict[str, int] = {}
    names = [name for name, module in model.named_modules() if isinstance(module, PadShortcut)]
    with watch(model, names, lambda _, name, x: widths.__setitem__(name, x.shape[1]), to_the_end=True) as forward:
        forward(example[:1])
    return widths
