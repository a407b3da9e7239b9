"""Mask channels at their consumers' inputs, which gives the same outputs as removing them.

A layer norm over channels normalizes over those that are not masked, as it does in the pruned network: the mean and the
variance of a masked layer norm are weighted by the mask.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.channels.attention import ATTENTIONS, call_projections, is_convertible, stop_calling_projections
from common.channels.groups import ChannelGroup
from common.channels.resize import channel_dim
from common.errors import UserError
from common.wrapped import plain_network

Reads = list[tuple[int, list[list[int]]]]  # (first column of a group, input positions of each of its channels)


@contextmanager
def masked(model: nn.Module, groups: Sequence[ChannelGroup], masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Multiply the input of every consumer by the masks of the groups that it reads, within this context.

    Removing the channels whose mask is 0 gives the same outputs. Use :class:`Masking` to apply many masks in a loop.

    Args:
        masks: Masks by group name, of shape (C,) for all examples or (N, C) for one mask per example. Groups without a
            mask are not masked.
    """
    with Masking(model, [group for group in groups if group.name in masks]) as masking, masking.applied(masks):
        yield model


class Masking:
    """Forward hooks that mask the inputs of these groups' consumers, until :meth:`remove` or the end of a ``with`` block.

    Outside :meth:`applied` the hooks change nothing. The mask of each input position is determined only once, and masks
    are cast only once.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        if plain_network(model) is not model:
            raise UserError(
                "masking: the network is in a wrapper, such as torch.compile; give common.wrapped.plain_network(model)"
            )
        self.groups = list(groups)
        self._masks: Tensor | None = None  # (C,) or (N, C), all groups concatenated
        self._cast: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        modules = dict(model.named_modules())
        reads_of = _reads_by_consumer(self.groups)
        self._attentions = [outer for name in reads_of if is_convertible(outer := modules[name.rpartition(".")[0]])]
        call_projections(self._attentions)
        self._handles = [
            modules[consumer].register_forward_pre_hook(self._multiply_input(reads), with_kwargs=True)
            for consumer, reads in reads_of.items()
        ]
        self._handles += [
            modules[name].register_forward_hook(self._normalize(reads))
            for name, reads in _channels_by_layer_norm(modules, self.groups).items()
        ]

    @contextmanager
    def applied(self, masks: Mapping[str, Tensor] | Tensor) -> Iterator[None]:
        """Apply masks within this context: by group name, or those of all groups concatenated to (C,) or (N, C)."""
        before = self._masks
        self._set(masks if isinstance(masks, Tensor) else _concatenate([masks[group.name] for group in self.groups]))
        try:
            yield
        finally:
            self._set(before)

    def __enter__(self) -> "Masking":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for handle in self._handles:
            handle.remove()
        stop_calling_projections(self._attentions)

    def _set(self, masks: Tensor | None) -> None:
        self._masks = masks
        self._cast.clear()

    def _multiply_input(self, reads: Reads) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None]:
        indices: dict[tuple[int, torch.device], Tensor | None] = {}

        def masked_input(module: nn.Module, x: Tensor) -> Tensor:
            assert self._masks is not None
            dim = channel_dim(module, x)
            width, total = x.shape[dim], self._masks.shape[-1]
            if (width, x.device) not in indices:
                indices[width, x.device] = _column_of_position(reads, width, total, x.device)
            index = indices[width, x.device]
            columns = self._columns_as(x)
            mask = columns.narrow(-1, reads[0][0], width) if index is None else columns.index_select(-1, index)
            return x * _shaped(mask, x, dim)

        def hook(
            module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if self._masks is None:
                return None
            if not isinstance(module, ATTENTIONS):
                return (masked_input(module, inputs[0]), *inputs[1:]), kwargs
            once: dict[int, Tensor] = {}  # queries, keys and values may be one tensor, and stay one

            def of(x: Tensor) -> Tensor:
                if id(x) not in once:
                    once[id(x)] = masked_input(module, x)
                return once[id(x)]

            three = ("query", "key", "value")
            named = {key: of(value) if key in three else value for key, value in kwargs.items()}
            return (*map(of, inputs[:3]), *inputs[3:]), named

        return hook

    def _normalize(self, reads: Reads) -> Callable[..., Tensor | None]:
        """Build a hook that normalizes over the channels of a layer norm that are not masked."""
        indices: dict[torch.device, Tensor] = {}

        def hook(module: nn.LayerNorm, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._masks is None:
                return None
            x = inputs[0]
            dim = channel_dim(module, x)
            if x.device not in indices:
                indices[x.device] = _columns(reads, x.shape[dim], self._masks.shape[-1]).to(x.device)
            mask = _shaped(self._columns_as(x).index_select(-1, indices[x.device]), x, dim)
            total = mask.sum(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)  # all channels may be masked
            centered = x - (x * mask).sum(dim, keepdim=True) / total
            variance = (centered.square() * mask).sum(dim, keepdim=True) / total
            y = centered * (variance + module.eps).rsqrt()
            shape = [-1 if d == dim else 1 for d in range(x.dim())]
            y = y if module.weight is None else y * module.weight.view(shape)
            return y if module.bias is None else y + module.bias.view(shape)

        return hook

    def _columns_as(self, x: Tensor) -> Tensor:
        """Return the masks with an input's device and type, and a last column of ones for positions that no group covers."""
        key = (x.device, x.dtype)
        if key not in self._cast:
            assert self._masks is not None
            masks = self._masks.to(device=x.device, dtype=x.dtype)
            self._cast[key] = torch.cat([masks, torch.ones_like(masks[..., :1])], dim=-1)
        return self._cast[key]


def _shaped(mask: Tensor, x: Tensor, dim: int) -> Tensor:
    """Return a mask (C,) or (N, C) in a shape that multiplies ``x``, whose channels are at ``dim``."""
    shape = [1] * x.dim()
    shape[dim] = mask.shape[-1]
    if mask.dim() == 2:
        shape[0] = x.shape[0]
    return mask.view(shape)


def _channels_by_layer_norm(modules: Mapping[str, nn.Module], groups: Sequence[ChannelGroup]) -> dict[str, Reads]:
    """Return the positions of the channels of groups that pass through layer norms."""
    reads: dict[str, Reads] = {}
    first = 0
    for group in groups:
        for name in group.pass_through:
            if isinstance(modules[name], nn.LayerNorm):
                positions = group.outputs.get(name) or [[channel] for channel in range(group.size)]
                reads.setdefault(name, []).append((first, positions))
        first += group.size
    return reads


def _concatenate(masks: Sequence[Tensor]) -> Tensor:
    """Concatenate masks (C,) or (N, C) over channels; if one has a mask per example, all are expanded to it."""
    if not masks:
        return torch.ones(0)
    examples = [len(mask) for mask in masks if mask.dim() == 2]
    return torch.cat([mask.expand(examples[0], -1) for mask in masks] if examples else list(masks), dim=-1)


def _reads_by_consumer(groups: Sequence[ChannelGroup]) -> dict[str, Reads]:
    reads: dict[str, Reads] = {}
    first = 0
    for group in groups:
        for consumer, positions in group.consumers:
            reads.setdefault(consumer, []).append((first, positions))
        first += group.size
    return reads


def _column_of_position(reads: Reads, width: int, ones: int, device: torch.device) -> Tensor | None:
    """Return the mask column of each input position, or None if these are the columns of one group in order.

    ones: index of the column of ones, for positions that no group covers.
    """
    if len(reads) == 1 and reads[0][1] == [[channel] for channel in range(width)]:
        return None
    return _columns(reads, width, ones).to(device)


def _columns(reads: Reads, width: int, ones: int) -> Tensor:
    column = [ones] * width
    for first, positions in reads:
        for channel, of_channel in enumerate(positions):
            for position in of_channel:
                column[position] = first + channel
    return torch.tensor(column)
