"""Masking at the consumers' inputs: what removal looks like before anything is removed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.channels.groups import ChannelGroup

Columns = dict[tuple[str, tuple[str, ...], int, torch.device], Tensor | None]


@contextmanager
def masked(
    model: nn.Module, groups: Sequence[ChannelGroup], masks: Mapping[str, Tensor], columns: Columns | None = None
) -> Iterator[nn.Module]:
    """Within this context every consumer reads its input times the masks of the groups it reads.

    masks: by group name, shape (C,) for all examples or (N, C) for one mask per example; groups without a mask are left
    alone. Removing the channels whose mask is 0 gives the same outputs. columns: a dictionary that is kept from call to call for the
    same groups; where each consumer's inputs come from is then found out once and not at every step.
    """
    modules = dict(model.named_modules())
    known: Columns = {} if columns is None else columns
    handles = []
    try:
        for consumer, reads in _reads_by_consumer(groups, masks).items():
            hook = _multiply_input(consumer, modules[consumer], reads, masks, known)
            handles.append(modules[consumer].register_forward_pre_hook(hook))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _reads_by_consumer(groups, masks) -> dict[str, list[tuple[str, list[list[int]]]]]:
    reads: dict[str, list[tuple[str, list[list[int]]]]] = {}
    for group in groups:
        if group.name in masks:
            for consumer, positions in group.consumers:
                reads.setdefault(consumer, []).append((group.name, positions))
    return reads


def _multiply_input(
    consumer: str,
    module: nn.Module,
    reads: list[tuple[str, list[list[int]]]],
    masks: Mapping[str, Tensor],
    known: Columns,
):
    """A forward pre-hook; the index from input positions to mask columns is built once, at the first call."""
    names = tuple(name for name, _ in reads)

    def hook(_, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        dim = x.dim() - 1 if isinstance(module, nn.Linear) else 1
        key = (consumer, names, x.shape[dim], x.device)
        if key not in known:
            known[key] = _column_of_position(reads, masks, x.shape[dim], x.device)
        index = known[key]
        mask = _columns(reads, masks, x, with_ones=index is not None)
        if index is not None:
            mask = mask.index_select(-1, index)
        shape = [1] * x.dim()
        shape[dim] = x.shape[dim]
        if mask.dim() == 2:
            shape[0] = x.shape[0]
        return (x * mask.view(shape), *inputs[1:])

    return hook


def _columns(reads, masks: Mapping[str, Tensor], x: Tensor, with_ones: bool) -> Tensor:
    """The masks side by side, (C,) or (N, C), with a last column of ones for the positions that no group covers."""
    parts = [masks[name].to(device=x.device, dtype=x.dtype) for name, _ in reads]
    if any(part.dim() == 2 for part in parts):
        parts = [part if part.dim() == 2 else part.expand(x.shape[0], -1) for part in parts]
    if not with_ones:
        return parts[0]
    return torch.cat([*parts, torch.ones_like(parts[0][..., :1])], dim=-1)


def _is_identity(positions: list[list[int]]) -> bool:
    return all(of_channel == [channel] for channel, of_channel in enumerate(positions))


def _column_of_position(reads, masks: Mapping[str, Tensor], width: int, device: torch.device) -> Tensor | None:
    """For each input position the column of :func:`_columns` that masks it; None if it is the same order."""
    if len(reads) == 1 and len(reads[0][1]) == width and _is_identity(reads[0][1]):
        return None
    total = sum(masks[name].shape[-1] for name, _ in reads)
    column = torch.full((width,), total)
    offset = 0
    for name, positions in reads:
        for channel, of_channel in enumerate(positions):
            column[of_channel] = offset + channel
        offset += masks[name].shape[-1]
    return column.to(device)
