"""Option-A shortcut of CIFAR ResNets (He et al. 2016, section 4.2) as a module whose channels can be pruned."""

import torch
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Shortcut that subsamples its input and places the channels by ``source``; other output channels are zero.

    ``source`` is an integer buffer of shape (C_out,): the input channel that is copied to each output channel, or -1
    for zero. Pruning channels on either side only changes this buffer, so both residual streams can be pruned freely.

    Shapes: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)).
    """

    source: Tensor
    traced_in_channels: int  # C_in, while common.channels.trace represents the shortcut as one node

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        source = torch.full((out_channels,), -1, dtype=torch.int64)
        source[before : before + in_channels] = torch.arange(in_channels)
        self.register_buffer("source", source)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        picked = x.index_select(1, self.source.clamp(min=0))
        return picked * (self.source >= 0).to(x.dtype).view(1, -1, 1, 1)

    def keep_outputs(self, kept: Tensor) -> None:
        """Keep the output channels ``kept`` (indices, ascending)."""
        self.source = self.source[kept.to(self.source.device)]

    def keep_inputs(self, kept: Tensor, in_channels: int) -> None:
        """Keep input channels ``kept`` out of ``in_channels``; outputs copied from a removed channel become zero."""
        new_position = torch.full((in_channels + 1,), -1, dtype=torch.int64)  # last entry: for source == -1
        new_position[kept.cpu()] = torch.arange(len(kept))
        self.source = new_position.to(self.source.device)[self.source]

    def extra_repr(self) -> str:
        return f"{len(self.source)} channels, {int((self.source < 0).sum())} of them zero, stride={self.stride}"
