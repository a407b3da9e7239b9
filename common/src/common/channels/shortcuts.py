"""Convert option-A shortcuts to strided 1x1 convolutions, which can also mix channels, and back."""

import torch
from torch import nn

from common.models import PadShortcut


def as_convolution(shortcut: PadShortcut, in_channels: int) -> nn.Conv2d:
    """Return an equivalent strided 1x1 convolution without bias; its weight (C_out, C_in, 1, 1) is zeros and ones."""
    layer = nn.Conv2d(
        in_channels, len(shortcut.source), 1, stride=shortcut.stride, bias=False, device=shortcut.source.device
    )
    nonzero = torch.nonzero(shortcut.source >= 0).flatten()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[nonzero, shortcut.source[nonzero]] = 1.0
    return layer.train(shortcut.training)


def restore_shortcuts(network: nn.Module, original: nn.Module) -> nn.Module:
    """Convert convolutions back to option-A shortcuts, in place, where ``original`` has an option-A shortcut.

    Convolutions that mix channels stay: a shortcut's weight has only zeros and at most a single 1 per row.
    """
    for name, module in original.named_modules():
        layer = network.get_submodule(name) if isinstance(module, PadShortcut) else None
        if not isinstance(layer, nn.Conv2d):
            continue
        rows = layer.weight.detach().flatten(1)
        if bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) <= 1).all()):
            shortcut = PadShortcut(1, 1, layer.stride[0]).train(layer.training)
            shortcut.source = torch.where(rows.sum(1) > 0, rows.argmax(1), -1)
            network.set_submodule(name, shortcut)
    return network
