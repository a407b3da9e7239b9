"""What a layer reads: the rows of its input, one per position of its output; a random part of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sample_positions(layer: nn.Module, inputs: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Choose output positions at random, the same for all images, so that all images together have about ``rows`` rows; (P,) int64."""
    if isinstance(layer, nn.Linear):
        return torch.zeros(1, dtype=torch.int64)
    assert isinstance(layer, nn.Conv2d)
    height, width = _output_size(layer, inputs)
    count = min(height * width, max(1, -(-rows // len(inputs))))
    return torch.randperm(height * width, generator=generator)[:count]


def input_rows(layer: nn.Module, inputs: Tensor, positions: Tensor) -> Tensor:
    """Return what a layer reads at output positions, as rows (groups, N * P, columns), in the order of its weights' columns."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    _, width = _output_size(layer, inputs)
    down, right = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    padded = F.pad(inputs, (right, right, down, down))
    y, x = positions // width * layer.stride[0], positions % width * layer.stride[1]
    taps = [
        padded[:, :, y + i * layer.dilation[0], x + j * layer.dilation[1]]
        for i in range(layer.kernel_size[0])
        for j in range(layer.kernel_size[1])
    ]
    rows = torch.stack(taps, -1)  # (N, in, P, taps)
    batch, channels, count, _ = rows.shape
    rows = rows.reshape(batch, layer.groups, channels // layer.groups, count, len(taps))
    return rows.permute(1, 0, 3, 2, 4).reshape(layer.groups, batch * count, -1)


def _output_size(layer: nn.Conv2d, inputs: Tensor) -> tuple[int, int]:
    padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    height, width = (
        (inputs.shape[2 + axis] + 2 * padding[axis] - layer.dilation[axis] * (layer.kernel_size[axis] - 1) - 1)
        // layer.stride[axis]
        + 1
        for axis in (0, 1)
    )
    return height, width
