"""Attention in shifted windows (Swin Transformer) whose heads and inputs can be removed.

torchvision's module computes the width of a head from that of its input, and calls no module for its projections.
:class:`WindowAttention` has the same tensors, by the same names, and computes the same: section 3.2 of arXiv 2103.14030;
with scaled cosine similarities and position biases of a small network, section 3.3 of arXiv 2111.09883.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

LARGEST_SCALE = math.log(100.0)  # of cosine similarities, as a logarithm (section 3.3 of arXiv 2111.09883)
LARGEST_BIAS = 16.0  # of a position, in the second version of torchvision
OTHER_REGION = -100.0  # added to the scores of positions that only the cyclic shift brings into one window


class WindowAttention(nn.Module):
    """Attention with the tensors of torchvision's ``ShiftedWindowAttention`` and any number of heads.

    Attributes:
        qkv: Linear layer to 3 * num_heads * head_dim channels: queries, keys and values of all heads.
        proj: Linear layer from num_heads * head_dim channels.
        positions: Layers from the distance of two positions to a bias per head (the second version); None for a table.
        window_size, shift_size: (rows, columns).
    """

    relative_position_index: Tensor

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Linear,
        head_dim: int,
        window_size: Sequence[int],
        shift_size: Sequence[int],
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        positions: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        self.qkv, self.proj, self.head_dim = qkv, proj, head_dim
        self.window_size, self.shift_size = list(window_size), list(shift_size)
        self.attention_dropout, self.dropout = attention_dropout, dropout
        rows, columns = self.window_size
        distances, heads = (2 * rows - 1, 2 * columns - 1), self.num_heads
        self.register_buffer("relative_position_index", torch.zeros((rows * columns) ** 2, dtype=torch.int64))
        if positions is None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(math.prod(distances), heads))
        else:
            self.register_buffer("relative_coords_table", torch.zeros(1, *distances, 2))
            self.logit_scale = nn.Parameter(torch.zeros(heads, 1, 1))
            self.cpb_mlp = positions

    @property
    def num_heads(self) -> int:
        return len(self.qkv.weight) // (3 * self.head_dim)

    @property
    def is_cosine(self) -> bool:
        """Whether scores are cosine similarities (the second version)."""
        return "logit_scale" in self._parameters

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (N, H, W, C_out) for x (N, H, W, C)."""
        count, height, width, _ = x.shape
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        padded = x.shape[1:3]
        shifts = [
            0 if size >= full else by for size, full, by in zip((rows, columns), padded, self.shift_size, strict=True)
        ]
        if any(shifts):
            x = x.roll([-by for by in shifts], (1, 2))
        windows = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)
        mixed = self._attend(windows.flatten(3, 4).flatten(0, 2), count, padded, shifts)
        windows = mixed.view(count, padded[0] // rows, padded[1] // columns, rows, columns, -1).transpose(2, 3)
        x = windows.flatten(3, 4).flatten(1, 2)
        if any(shifts):
            x = x.roll(shifts, (1, 2))
        return x[:, :height, :width].contiguous()

    def _attend(self, x: Tensor, count: int, padded: Sequence[int], shifts: Sequence[int]) -> Tensor:
        """Return the outputs for windows (N * windows, positions, C)."""
        q, k, v = self._project(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.is_cosine:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * self.logit_scale.clamp(max=LARGEST_SCALE).exp()
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias()
        if any(shifts):
            mask = self._region_mask(x, padded, shifts)
            scores = (scores.unflatten(0, (count, -1)) + mask.unsqueeze(1)).flatten(0, 1)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return F.dropout(self.proj(mixed), self.dropout, self.training)

    def _project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values; keys have no bias where scores are cosine similarities."""
        if not self.is_cosine or self.qkv.bias is None:
            return self.qkv(x)
        queries, keys, values = self.qkv.bias.chunk(3)
        if torch.jit.is_tracing():  # which does not support functional_call; gradients would be inexact
            return self.qkv(x) - torch.cat([torch.zeros_like(queries), keys, torch.zeros_like(values)])
        bias = torch.cat([queries, torch.zeros_like(keys), values])
        return functional_call(self.qkv, {"bias": bias}, (x,))

    def _position_bias(self) -> Tensor:
        """Return the bias of each head for each pair of positions, (1, heads, positions, positions)."""
        table = self.relative_position_bias_table if not self.is_cosine else self.cpb_mlp(self.relative_coords_table)
        places = math.prod(self.window_size)
        bias = (
            table.flatten(0, -2)
            .index_select(0, self.relative_position_index)
            .unflatten(0, (places, places))
            .permute(2, 0, 1)
        )
        bias = bias.unsqueeze(0)
        return LARGEST_BIAS * bias.sigmoid() if self.is_cosine else bias

    def _region_mask(self, x: Tensor, padded: Sequence[int], shifts: Sequence[int]) -> Tensor:
        """Return what excludes pairs of positions of one window that are not neighbors, (windows, positions, positions)."""
        numbers = []
        for size, full, by in zip(self.window_size, padded, shifts, strict=True):
            place = torch.arange(full, device=x.device)
            numbers.append((place >= full - size).to(x.dtype) + (place >= full - by).to(x.dtype))
        region = 3 * numbers[0][:, None] + numbers[1]
        rows, columns = self.window_size
        region = region.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2).flatten(0, 1)
        return (region.unsqueeze(1) != region.unsqueeze(2)).to(x.dtype) * OTHER_REGION

    def extra_repr(self) -> str:
        window, shift = (tuple(size) for size in (self.window_size, self.shift_size))
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, window_size={window}, shift_size={shift}"


def position_layers(hidden: int, heads: int) -> nn.Sequential:
    """Return layers from the distance of two positions (rows, columns) to a bias per head."""
    return nn.Sequential(nn.Linear(2, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, heads, bias=False))


def is_shifted_window(module: nn.Module) -> bool:
    """Return whether a module is torchvision's attention in shifted windows, without importing torchvision."""
    kind = type(module)
    return (
        kind.__module__ == "torchvision.models.swin_transformer"
        and kind.__name__ in ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")
        and type(module.qkv) is type(module.proj) is nn.Linear
        and "weight" in module.qkv._parameters
        and "weight" in module.proj._parameters
    )


def with_window_heads(module: nn.Module) -> WindowAttention:
    """Return the :class:`WindowAttention` with the tensors and layers of torchvision's attention in shifted windows."""
    given: Any = module
    with torch.device("meta"):
        converted = WindowAttention(
            given.qkv,
            given.proj,
            len(given.qkv.weight) // (3 * given.num_heads),
            given.window_size,
            given.shift_size,
            given.attention_dropout,
            given.dropout,
            given._modules.get("cpb_mlp"),
        )
    converted._parameters.update(module._parameters)
    converted._buffers.update(module._buffers)
    converted.training = module.training
    return converted
