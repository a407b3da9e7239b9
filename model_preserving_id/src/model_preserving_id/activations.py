"""The matrix Z of every channel group: the inputs of its consumers, accumulated into one Gram matrix per consumer.

Z is recorded at the input of the next weight layer: after nonlinearity, normalization layer and pooling; dropout is off.
Rows are examples times pixels (times positions within a flattened map), columns are the group's channels. (Paper, section 3)
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.channels.resize import CONVOLUTIONS
from common.device import exact_float32
from common.errors import UserError
from common.models import PadShortcut
from common.progress import track
from model_preserving_id.gram import Gram


@dataclass(frozen=True, eq=False)
class ConsumerInput:
    """One group as read by one consumer: channel c is at the input positions ``positions[c]``, (C, s) int64."""

    group: str
    consumer: str
    positions: Tensor

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.positions)

    @property
    def in_order(self) -> bool:
        """Whether the channels are at positions 0, 1, 2, ..."""
        return self.positions.shape[1] == 1 and bool((self.positions[:, 0] == torch.arange(self.size)).all())


@dataclass(frozen=True)
class GramStatistics:
    """Gram matrices of one group, by consumer.

    Attributes:
        grams: Z^T Z, (C, C) float64.
        rows: Number of rows of Z.
        cross: Z^T Z_0, (C, C) float64, where Z_0 is the input of the same consumer in the unpruned network on the same images;
            may be empty.
    """

    grams: Mapping[str, np.ndarray]
    rows: Mapping[str, int]
    cross: Mapping[str, np.ndarray] = field(default_factory=dict)

    def stacked(self) -> np.ndarray:
        """Z^T Z of all consumers' Z stacked by rows."""
        return sum(self.grams.values())  # type: ignore[return-value]

    def restricted(self, kept: Sequence[int]) -> "GramStatistics":
        """Return the statistics of the pruned group: entries of removed channels, which nothing reads, are zero."""
        mask = np.zeros(len(self.stacked()))
        mask[list(kept)] = 1.0
        grams = {name: mask[:, None] * gram * mask for name, gram in self.grams.items()}
        return replace(self, grams=grams)


def consumer_inputs(groups: Sequence[ChannelGroup]) -> list[ConsumerInput]:
    """List all (group, consumer) pairs. Raises UserError for a consumer that reads some channels more often than others."""
    found = []
    for group in groups:
        for consumer, positions in group.consumers:
            if len({len(of_channel) for of_channel in positions}) != 1:
                raise UserError(
                    f"{group.name}: {consumer} reads some channels more often than others;"
                    f" use --ignored-layers {group.name}"
                )
            found.append(ConsumerInput(group.name, consumer, torch.tensor(positions, dtype=torch.int64)))
    return found


@torch.no_grad()
def gather_statistics(
    model: nn.Module,
    inputs: Sequence[ConsumerInput],
    batches: Iterable[Tensor],
    *,
    device: torch.device | str = "cpu",
    on_output: Callable[[Tensor], None] | None = None,
) -> dict[str, GramStatistics]:
    """Compute the statistics of every group in one pass in eval mode; the training mode is restored and Z is not stored.

    Args:
        batches: Images without labels.
        on_output: Called with the outputs of every batch. If None, a forward pass ends at the last consumer.

    Raises:
        UserError: If a consumer read nothing.
    """
    grams = {(one.group, one.consumer): Gram(one.size) for one in inputs}

    def add(module: nn.Module, consumer: str, x: Tensor) -> None:
        for one in by_consumer[consumer]:
            grams[one.group, one.consumer].add(input_rows(module, x, one))

    by_consumer: dict[str, list[ConsumerInput]] = {}
    for one in inputs:
        by_consumer.setdefault(one.consumer, []).append(one)
    device = torch.device(device)
    model.to(device)
    with capture_inputs(model, list(by_consumer), add, run_to_end=on_output is not None) as forward:
        for batch in track(batches, "activations"):
            outputs = forward(batch.to(device))
            if on_output is not None:
                assert outputs is not None
                on_output(outputs)
    for (group, consumer), gram in grams.items():
        if not gram.count:
            raise UserError(f"{group}: {consumer} read no inputs; give at least one batch of images")
    consumers_of = {one.group: [other.consumer for other in inputs if other.group == one.group] for one in inputs}
    return {
        group: GramStatistics(
            {consumer: grams[group, consumer].matrix() for consumer in consumers},
            {consumer: grams[group, consumer].count for consumer in consumers},
        )
        for group, consumers in consumers_of.items()
    }


def groups_with_few_rows(statistics: Mapping[str, GramStatistics]) -> list[str]:
    """Return the groups of which a consumer read fewer rows than it has channels, as after global pooling: one row per image.

    Their decomposition is not identifiable.
    """
    return [group for group, found in statistics.items() if min(found.rows.values()) < len(found.stacked())]


def warn_of_few_rows(statistics: Mapping[str, GramStatistics], few: Sequence[str], what: str = "") -> None:
    """Warn once of the groups ``few``; ``what`` is done with them."""
    rows, channels = min(statistics[few[0]].rows.values()), len(statistics[few[0]].stacked())
    more = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
    warnings.warn(
        f"{what}{few[0]}{more}: {rows} rows of activations cannot distinguish {channels} channels; give more images",
        stacklevel=4,
    )


@contextmanager
def capture_inputs(
    model: nn.Module,
    names: Sequence[str],
    on_input: Callable[[nn.Module, str, Tensor], None],
    run_to_end: bool = False,
) -> Iterator[Callable[[Tensor], Tensor | None]]:
    """Yield a forward function in eval mode that calls ``on_input(module, name, input)`` at each call of the named modules.

    Unless ``run_to_end``, forward passes after the first one end at the last of these calls and return None.
    """
    modules = dict(model.named_modules())
    calls = [0, -1]  # in this forward pass; in a complete one, -1 until that is known

    def hook_of(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            on_input(module, name, inputs[0])
            calls[0] += 1
            if calls[0] == calls[1] and not run_to_end:
                raise _AllInputsCaptured

        return hook

    def forward(batch: Tensor) -> Tensor | None:
        calls[0] = 0
        try:
            outputs = model(batch)
        except _AllInputsCaptured:
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


class _AllInputsCaptured(Exception):
    """Every named module was called: the rest of the forward pass is not needed."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Use eval mode and exact float32 within the context; every module's training mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with exact_float32():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def find_call_order(model: nn.Module, names: Iterable[str], example_input: Tensor) -> list[str]:
    """Sort the named modules by their first call in a forward pass; modules that are not called come last."""
    order: list[str] = []
    parameter = next(model.parameters())
    with capture_inputs(model, list(names), lambda module, name, x: order.append(name), run_to_end=True) as forward:
        forward(example_input[:1].to(parameter.device, parameter.dtype))
    return list(dict.fromkeys([*order, *names]))


def input_rows(module: nn.Module, x: Tensor, consumer_input: ConsumerInput) -> Tensor:
    """Return the rows (m, C) of Z that a module reads in one call with input ``x``."""
    last = x if isinstance(module, nn.Linear) else used_pixels(module, x).movedim(1, -1)
    if consumer_input.in_order and last.shape[-1] == consumer_input.size:
        return last.reshape(-1, consumer_input.size)
    selected = last.index_select(-1, consumer_input.positions.T.reshape(-1).to(x.device))  # (..., s * C)
    return selected.reshape(-1, consumer_input.size)


def used_pixels(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` (N, C, ...) without the pixels that a strided 1x1 convolution or an option-A shortcut skips."""
    if isinstance(module, PadShortcut):
        return x[:, :, :: module.stride, :: module.stride]
    if isinstance(module, CONVOLUTIONS) and set(module.kernel_size) == {1} and not any(module.padding):
        for axis, stride in enumerate(module.stride):
            if stride > 1:
                x = x.index_select(2 + axis, torch.arange(0, x.shape[2 + axis], stride, device=x.device))
    return x
