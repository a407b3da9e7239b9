"""Residual streams: which groups they are, and option-A shortcuts as strided 1x1 convolutions, whose T can be anything."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import watch
from model_preserving_id.settings import STREAMS


def is_stream(group: ChannelGroup) -> bool:
    """Whether several layers add into these channels."""
    return len(group.producers) > 1


def shortcuts_of(model: nn.Module, group: ChannelGroup) -> list[str]:
    """The option-A shortcuts that read a group."""
    modules = dict(model.named_modules())
    return [name for name, _ in group.consumers if isinstance(modules[name], PadShortcut)]


def prepare_streams(model: nn.Module, example_input: Tensor, streams: str, share: bool = False) -> nn.Module:
    """A copy to work on; with ``conv`` every option-A shortcut in it is the convolution that computes the same.

    share: the copy's tensors are the given network's own (it is for reading only).
    """
    if streams not in STREAMS:
        raise UserError(f"--streams {streams}: expected one of {', '.join(STREAMS)}")
    own = (*model.parameters(), *model.buffers()) if share else ()
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in own})
    if streams == "conv":
        for name, width in _input_widths(model, example_input).items():
            layer = as_convolution(model.get_submodule(name), width)
            model.set_submodule(name, layer.to(next(model.parameters()).dtype))
    return model


def as_convolution(shortcut: PadShortcut, in_channels: int) -> nn.Conv2d:
    """A strided 1x1 convolution without bias whose weight (C_out, C_in, 1, 1) is ``source`` written as zeros and ones."""
    parts = {"device": shortcut.source.device}
    layer = nn.Conv2d(in_channels, len(shortcut.source), 1, stride=shortcut.stride, bias=False, **parts)
    fed = torch.nonzero(shortcut.source >= 0).flatten()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[fed, shortcut.source[fed]] = 1.0
    return layer.train(shortcut.training)


def restore_shortcuts(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Of the named convolutions those that still only select (zeros, and one 1 in a row) become option-A shortcuts again."""
    for name in names:
        layer = model.get_submodule(name)
        rows = layer.weight.detach().flatten(1)
        if bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) <= 1).all()):
            shortcut = PadShortcut(1, 1, layer.stride[0]).train(layer.training)
            shortcut.source = torch.where(rows.sum(1) > 0, rows.argmax(1), -1)
            model.set_submodule(name, shortcut)
    return model


def shortcut_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PadShortcut)]


@torch.no_grad()
def _input_widths(model: nn.Module, example_input: Tensor) -> dict[str, int]:
    widths: dict[str, int] = {}
    names = shortcut_names(model)
    with watch(model, names, lambda _, name, x: widths.__setitem__(name, x.shape[1]), to_the_end=True) as forward:
        forward(example_input[:1].to(next(model.parameters()).device))
    return widths
