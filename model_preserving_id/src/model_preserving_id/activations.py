"""The matrix Z of every channel group: what its consumers read, streamed through the network into one Gram matrix each.

Z is taken where the next weight layer reads: after the nonlinearity, after the norm, after the pooling; dropout is off.
Rows are examples times pixels (times positions within a flattened map), columns are the group's channels. (Paper, section 3)
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.channels import ChannelGroup
from common.channels.resize import CONVOLUTIONS
from common.device import exact_float32
from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.rows import Gram


@dataclass(frozen=True, eq=False)
class Reading:
    """One consumer that reads one group: channel c stands at its input positions ``positions[c]``, (C, s) int64."""

    group: str
    consumer: str
    positions: Tensor

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.positions)

    @property
    def in_order(self) -> bool:
        """Whether the channels stand at positions 0, 1, 2, ..."""
        return self.positions.shape[1] == 1 and bool((self.positions[:, 0] == torch.arange(self.size)).all())


@dataclass(frozen=True)
class Statistics:
    """Of one group, per consumer: Z^T Z (C, C) float64 and the number of rows of Z.

    cross: Z^T Z_0 (C, C), where Z_0 is what the same consumer reads in the original network on the same pictures; may be empty.
    """

    grams: Mapping[str, np.ndarray]
    rows: Mapping[str, int]
    cross: Mapping[str, np.ndarray] = field(default_factory=dict)

    def stacked(self) -> np.ndarray:
        """Z^T Z of all consumers' Z stacked by rows."""
        return sum(self.grams.values())  # type: ignore[return-value]


def readings(groups: Sequence[ChannelGroup]) -> list[Reading]:
    """Every (group, consumer) pair. Raises UserError for a consumer that reads some channels more often than others."""
    found = []
    for group in groups:
        for consumer, positions in group.consumers:
            if len({len(of_channel) for of_channel in positions}) != 1:
                raise UserError(
                    f"{group.name}: {consumer} reads some of its channels more often than others; skip this group"
                )
            found.append(Reading(group.name, consumer, torch.tensor(positions, dtype=torch.int64)))
    return found


@torch.no_grad()
def gather(
    model: nn.Module,
    wanted: Sequence[Reading],
    batches: Iterable[Tensor],
    *,
    device: torch.device | str = "cpu",
    on_output: Callable[[Tensor], None] | None = None,
) -> dict[str, Statistics]:
    """Statistics by name of group, from one pass in eval mode (the mode is put back); no matrix Z is ever held.

    batches: inputs without labels. on_output: called with the outputs of every batch; without it a forward ends where the
    last consumer has read. Raises UserError if nothing was read.
    """
    grams = {(one.group, one.consumer): Gram(one.size) for one in wanted}

    def add(module: nn.Module, consumer: str, x: Tensor) -> None:
        for one in by_consumer[consumer]:
            grams[one.group, one.consumer].add(rows_read(module, x, one))

    by_consumer: dict[str, list[Reading]] = {}
    for one in wanted:
        by_consumer.setdefault(one.consumer, []).append(one)
    device = torch.device(device)
    model.to(device)
    with watch(model, list(by_consumer), add, to_the_end=on_output is not None) as forward:
        for batch in tqdm(batches, desc="activations", disable=None, leave=False):
            outputs = forward(batch.to(device))
            if on_output is not None:
                assert outputs is not None
                on_output(outputs)
    for (group, consumer), gram in grams.items():
        if not gram.count:
            raise UserError(f"{group}: nothing was read by {consumer}; give at least one batch of inputs")
    consumers_of = {one.group: [other.consumer for other in wanted if other.group == one.group] for one in wanted}
    return {
        group: Statistics(
            {consumer: grams[group, consumer].matrix() for consumer in consumers},
            {consumer: grams[group, consumer].count for consumer in consumers},
        )
        for group, consumers in consumers_of.items()
    }


def warn_of_few_rows(statistics: Mapping[str, Statistics]) -> None:
    """One warning if some consumer read fewer rows than it has channels: then any choice of that many fits them exactly."""
    few = [
        (group, min(found.rows.values()), len(found.stacked()))
        for group, found in statistics.items()
        if min(found.rows.values()) < len(found.stacked())
    ]
    if few:
        group, rows, channels = few[0]
        more = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
        warnings.warn(
            f"{group}{more}: {rows} rows of activations cannot tell {channels} channels apart; give more inputs",
            stacklevel=4,
        )


@contextmanager
def watch(
    model: nn.Module,
    names: Sequence[str],
    see: Callable[[nn.Module, str, Tensor], None],
    to_the_end: bool = False,
) -> Iterator[Callable[[Tensor], Tensor | None]]:
    """Yields a forward in eval mode that calls ``see(module, name, input)`` whenever one of the named modules is called.

    Unless ``to_the_end``, forwards after the first end at the last of these calls, and give None.
    """
    modules = dict(model.named_modules())
    calls = [0, -1]  # in this forward; in a whole forward, -1 until that is known

    def hook_of(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            see(module, name, inputs[0])
            calls[0] += 1
            if calls[0] == calls[1] and not to_the_end:
                raise _Enough

        return hook

    def forward(batch: Tensor) -> Tensor | None:
        calls[0] = 0
        try:
            outputs = model(batch)
        except _Enough:
            return None
        calls[1] = calls[0]
        return outputs

    handles = [modules[name].register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        with eval_mode(model):
            yield forward
    finally:
        for handle in handles:
            handle.remove()


class _Enough(Exception):
    """Every module of interest was called: the rest of the forward need not run."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and exact float32 within the context; every module's own mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with exact_float32():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def call_order(model: nn.Module, names: Iterable[str], example_input: Tensor) -> list[str]:
    """The named modules in the order in which a forward first calls them; those it does not call come last."""
    order: list[str] = []
    parameter = next(model.parameters())
    with watch(model, list(names), lambda module, name, x: order.append(name), to_the_end=True) as forward:
        forward(example_input[:1].to(parameter.device, parameter.dtype))
    return list(dict.fromkeys([*order, *names]))


def rows_read(module: nn.Module, x: Tensor, reading: Reading) -> Tensor:
    """The rows (m, C) of Z that a module reads in one call with input ``x``."""
    last = x if isinstance(module, nn.Linear) else pixels_read(module, x).movedim(1, -1)
    if reading.in_order and last.shape[-1] == reading.size:
        return last.reshape(-1, reading.size)
    picked = last.index_select(-1, reading.positions.T.reshape(-1).to(x.device))  # (..., s * C)
    return picked.reshape(-1, reading.size)


def pixels_read(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` (N, C, ...) without the pixels that a strided 1x1 convolution or an option-A shortcut skips."""
    if isinstance(module, PadShortcut):
        return x[:, :, :: module.stride, :: module.stride]
    if isinstance(module, CONVOLUTIONS) and set(module.kernel_size) == {1} and not any(module.padding):
        for axis, stride in enumerate(module.stride):
            if stride > 1:
                x = x.index_select(2 + axis, torch.arange(0, x.shape[2 + axis], stride, device=x.device))
    return x
