"""Remove channels: build a new, smaller network and compare it with the masked one."""

import copy
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from common.channels.groups import ChannelGroup, groups_from_traces
from common.channels.mask import masked
from common.channels.resize import remove_channels
from common.channels.select import round_up, top_channels
from common.channels.trace import LayerSlice, trace
from common.device import exact_float32
from common.errors import UserError
from common.layers import weight_of
from common.tied import check_tied, tie, tied_parameters
from common.wrapped import plain_network

TOLERANCE = 1e-5


def keep_channels(
    model: nn.Module, example_input: Tensor, kept: Mapping[str, Sequence[int]], *, round_to: int = 1
) -> nn.Module:
    """Prune a network to the given channels and return a new network; the given one is not modified.

    The outputs of the new network are compared with those of the given network with the same channels masked.

    Args:
        example_input: Batch of the shape that the network reads, e.g. (1, 3, 32, 32).
        kept: Indices of the channels to keep (unique, at least one), by group name. Groups not listed keep all
            channels.
        round_to: Round widths up to a multiple of this number, by keeping those of the removed channels that have the
            largest L1 norms.

    Raises:
        UserError: If indices are invalid (names the group or layer), or if an output differs from the masked network's
            by more than 1e-5 max(1, max|b|), where b are the masked network's outputs.
    """
    model = plain_network(model)
    traces = trace(model, example_input)
    groups = {group.name: group for group in groups_from_traces(model, traces)}
    slices = {found.name: found.slices for found in traces}
    chosen = {}
    for name, indices in kept.items():
        if name not in groups:
            raise UserError(f"no channel group {name!r}; the groups are {', '.join(groups)}")
        chosen[name] = _check_indices(groups[name], indices)
        if round_to > 1:
            chosen[name] = _round_up(model, groups[name], chosen[name], round_to)
    smaller, ties = copy.deepcopy(model), tied_parameters(model)
    _remove(smaller, {name: slices[name] for name in chosen}, chosen)
    tie(smaller, ties)
    check_tied(smaller, ties, list(chosen))
    _compare(model, smaller, example_input, groups, chosen)
    return smaller


def _check_indices(group: ChannelGroup, indices: Sequence[int]) -> list[int]:
    kept = sorted(int(i) for i in indices)
    if not kept:
        raise UserError(f"{group.name}: no channel would be left; keep at least one")
    if len(set(kept)) != len(kept) or kept[0] < 0 or kept[-1] >= group.size:
        raise UserError(f"{group.name}: kept channels must be different integers from 0 to {group.size - 1}")
    return kept


def _round_up(model: nn.Module, group: ChannelGroup, kept: list[int], round_to: int) -> list[int]:
    modules = dict(model.named_modules())
    norms = reduce(torch.add, [_l1(modules[name]) for name in group.producers])
    norms[kept] = torch.inf
    return top_channels(norms.tolist(), round_up(len(kept), round_to, group.size), conv_groups=group.conv_groups)


def _l1(module: nn.Module) -> Tensor:
    """L1 norm of the weights of each output channel, (C_out,)."""
    return weight_of(module).detach().abs().flatten(1).sum(1).double().cpu()


def _remove(model: nn.Module, slices: Mapping[str, Sequence[LayerSlice]], kept: Mapping[str, list[int]]) -> None:
    """Resize each side of every module once: all positions refer to the unpruned network."""
    modules = dict(model.named_modules())
    removed: dict[tuple[str, str], set[int]] = {}
    for name, of_group in slices.items():
        remaining = set(kept[name])
        for part in of_group:
            positions = {p for p, c in zip(part.positions, part.channels, strict=True) if c not in remaining}
            removed.setdefault((part.module, part.side), set()).update(positions)
    for (name, side), positions in removed.items():
        if positions:
            remove_channels(name, modules[name], side, positions)


def _compare(
    model: nn.Module, smaller: nn.Module, example_input: Tensor, groups: Mapping[str, ChannelGroup], kept
) -> None:
    """Raise UserError if the pruned network's outputs differ from the masked network's."""
    batch = _probe(model, example_input)
    difference, allowed = _difference(model, smaller, batch, groups, kept)
    if difference > allowed:  # in float64, to distinguish rounding in a badly scaled network from an error
        difference, allowed = _difference(_double(model), _double(smaller), batch.double(), groups, kept)
    if not difference <= allowed:
        raise UserError(
            f"pruning {', '.join(kept)}: the outputs differ by {difference:.3g} from those of the masked network"
            f" (allowed: {allowed:.3g}): an untraced operation between producer and consumer mixes channels;"
            " do not prune these groups"
        )
    _check_unreached_modules(model, smaller, batch)


def _probe(model: nn.Module, example_input: Tensor) -> Tensor:
    """Sample two examples of the example input's shape, without using the global random state."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    return torch.randn((2, *example_input.shape[1:]), generator=generator).to(device=device, dtype=dtype)


@torch.no_grad()
def _difference(model, smaller, batch, groups, kept) -> tuple[float, float]:
    """Return (largest |masked - pruned|, allowed difference) in eval mode; infinity if the pruned network fails."""
    masks = {}
    for name, indices in kept.items():
        masks[name] = torch.zeros(groups[name].size, device=batch.device, dtype=batch.dtype)
        masks[name][indices] = 1
    with exact_float32(), _eval_mode(model), _eval_mode(smaller), masked(model, list(groups.values()), masks):
        expected = _tensors(model(batch))
        try:
            actual = _tensors(smaller(batch))
        except RuntimeError:
            return float("inf"), 0.0
    largest = max(float((a - b).abs().max()) for a, b in zip(expected, actual, strict=True))
    scale = max(float(a.abs().max()) for a in expected)
    return largest, TOLERANCE * max(1.0, scale)


def _tensors(outputs) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for value in values if value is not None for tensor in _tensors(value)]


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


class _eval_mode:
    """Context in eval mode, which restores the mode of every module."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = {module: module.training for module in self.model.modules()}
        self.model.eval()

    def __exit__(self, *_) -> None:
        for module, mode in self.modes.items():
            module.training = mode


def _check_unreached_modules(model: nn.Module, smaller: nn.Module, batch: Tensor) -> None:
    """Raise UserError if a module that runs only in training mode (an auxiliary head) no longer fits its input."""
    reached = _input_shapes(model, batch, training=False)
    unreached = [
        n for n, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None and n not in reached
    ]
    if not unreached:
        return
    before, after = _input_shapes(model, batch, training=True), _input_shapes(smaller, batch, training=True)
    stale = [name for name in unreached if before.get(name) != after.get(name)]
    if stale:
        raise UserError(
            f"{stale[0]}: it does not run in eval mode, and its input would no longer fit after pruning; remove this module"
        )


@torch.no_grad()
def _input_shapes(model: nn.Module, batch: Tensor, training: bool) -> dict[str, tuple[int, ...]]:
    """Return the channel dimension of each parametrized module's input, up to where the network fails."""
    model = copy.deepcopy(model).train(training)
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def hook(_, inputs) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                shapes[name] = tuple(inputs[0].shape[1:2])

        return hook

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(record(name))
    try:
        model(batch)
    except (RuntimeError, ValueError):
        if not training:
            raise
    return shapes
