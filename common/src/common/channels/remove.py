"""Remove channels: build a new, smaller network and compare it with the masked one."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from common.channels.attention import is_convertible, with_heads
from common.channels.exact import Reference, cast_for
from common.channels.example import Inputs, call, copy_network, copy_sharing_tensors, map_tensors
from common.channels.groups import ChannelGroup, ChannelGroups, groups_from_traces
from common.channels.resize import output_rows, own_tensors, remove_channels
from common.channels.select import round_up, top_channels
from common.channels.trace import LayerSlice, trace
from common.errors import UserError
from common.tied import check_tied, tie, tied_parameters
from common.wrapped import plain_network


def keep_channels(
    model: nn.Module,
    example_input: Inputs,
    kept: Mapping[str, Sequence[int]],
    *,
    round_to: int = 1,
    groups: ChannelGroups | None = None,
) -> nn.Module:
    """Prune a network to the given channels and return a new network; the given one is not modified.

    The new network is compared with the given network with the same channels masked (:mod:`common.channels.exact`): at
    the inputs and outputs of all layers and of the network, in float64, on random inputs of several scales, on the
    example input unless it is constant, and with batch norm at typical statistics.

    Args:
        example_input: Batch of the shape that the network reads, e.g. (1, 3, 32, 32); a tuple or a dict for several
            inputs. Real images make the comparison stricter.
        kept: Indices of the channels to keep (unique, at least one), by group name. Groups not listed keep all
            channels.
        round_to: Round widths up to a multiple of this number, by keeping those of the removed channels that have the
            largest L1 norms.
        groups: The channel groups, if they are known, of this network or of one with the same layers, such as the network
            before its weights changed. They are not traced again.

    Raises:
        UserError: If indices are invalid (names the group or layer), or if a tensor differs from the masked network's
            by more than 1e-9 of its largest value.
    """
    model = plain_network(model)
    if groups is None:
        groups = groups_from_traces(model, trace(model, example_input))
    chosen = _choose(model, groups, kept, round_to)
    removed = removed_positions(groups.slices, chosen)
    smaller = copy_network(model)
    if removed:
        remove_positions(smaller, removed)
        _compare(model, smaller, example_input, groups, chosen, removed)
    return smaller


def kept_entries(model: nn.Module, example_input: Inputs, kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return where the entries of the pruned network's parameters are in those of the unpruned network.

    Args:
        example_input, kept: As of :func:`keep_channels`.

    Returns:
        {name of a parameter: int64 positions in the flattened parameter of ``model``, of the pruned parameter's shape}.
    """
    numbered = copy_network(plain_network(model)).cpu().float().eval()
    example = map_tensors(lambda tensor: tensor.cpu(), example_input)
    groups = groups_from_traces(numbered, trace(numbered, example))
    removed = removed_positions(groups.slices, _choose(numbered, groups, kept, round_to=1))
    numbered.double()
    for parameter in numbered.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
    remove_positions(numbered, removed)
    return {name: parameter.detach().long() for name, parameter in numbered.named_parameters()}


def _choose(
    model: nn.Module, groups: ChannelGroups, kept: Mapping[str, Sequence[int]], round_to: int
) -> dict[str, list[int]]:
    by_name = {group.name: group for group in groups}
    chosen = {}
    for name, indices in kept.items():
        if name in groups.excluded:
            raise UserError(f"channel group {name!r} cannot be pruned: {groups.excluded[name]}; keep all its channels")
        if name not in by_name:
            raise UserError(f"no channel group {name!r}; the groups are {', '.join(by_name) or 'none'}")
        chosen[name] = _check_indices(by_name[name], indices)
        if round_to > 1:
            chosen[name] = _round_up(model, by_name[name], chosen[name], round_to)
    return chosen


def _check_indices(group: ChannelGroup, indices: Sequence[int]) -> list[int]:
    kept = sorted(int(i) for i in indices)
    if not kept:
        raise UserError(f"{group.name}: no channel would be left; keep at least one")
    if len(set(kept)) != len(kept) or kept[0] < 0 or kept[-1] >= group.size:
        raise UserError(f"{group.name}: kept channels must be different integers from 0 to {group.size - 1}")
    block = group.size // group.conv_groups
    if len({sum(i // block == part for i in kept) for part in range(group.conv_groups)}) > 1:
        raise UserError(
            f"{group.name}: keep the same number of channels in each of its {group.conv_groups} blocks of {block}"
        )
    return kept


def _round_up(model: nn.Module, group: ChannelGroup, kept: list[int], round_to: int) -> list[int]:
    modules = dict(model.named_modules())
    norms = reduce(torch.add, [group.per_channel(name, _l1(modules[name])) for name in group.producers])
    norms[kept] = torch.inf
    return top_channels(norms.tolist(), round_up(len(kept), round_to, group.size), conv_groups=group.conv_groups)


def _l1(module: nn.Module) -> Tensor:
    """L1 norm of the weights of each output channel, (C_out,)."""
    return output_rows(module).detach().abs().flatten(1).sum(1).double().cpu()


def removed_positions(
    slices: Mapping[str, Sequence[LayerSlice]], kept: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], set[int]]:
    """Return the positions to remove by module and side, so that each side of a module is resized only once.

    slices: the layers of each group, from the trace of the unpruned network.
    """
    removed: dict[tuple[str, str], set[int]] = {}
    for name, indices in kept.items():
        remaining = set(indices)
        for part in slices[name]:
            positions = {p for p, c in zip(part.positions, part.channels, strict=True) if c not in remaining}
            if positions:
                removed.setdefault((part.module, part.side), set()).update(positions)
    return removed


def remove_positions(model: nn.Module, removed: Mapping[tuple[str, str], set[int]]) -> None:
    """Remove positions from layers, in place. Tied parameters stay tied if they stay equal, else UserError is raised."""
    ties = tied_parameters(model)
    for name in {name for name, _ in removed}:
        module = model.get_submodule(name)
        if is_convertible(module):
            model.set_submodule(name, with_heads(module))
    modules = dict(model.named_modules())
    for (name, side), positions in removed.items():
        remove_channels(name, modules[name], side, positions)
    tie(model, ties)
    check_tied(model, ties)


def _check_tensors(
    model: nn.Module,
    smaller: nn.Module,
    typical: nn.Module,
    reference: Reference,
    removed: Mapping[tuple[str, str], set[int]],
) -> None:
    """Raise UserError unless the pruned network has the tensors of the one that is compared with the masked network.

    typical: the pruned copy of ``reference.model``. A tensor with other values there is compared with that of ``model``:
    where the weight of a batch norm is zero, no output would show other statistics.
    """
    modules, others, before = (dict(net.named_modules()) for net in (smaller, typical, model))
    for name, module in modules.items():
        positions = removed.get((name, "both"), set())
        for key, tensor in own_tensors(module).items():
            expected = own_tensors(others[name])[key]
            if (name, key) in reference.replaced:
                expected = own_tensors(before[name])[key]
                if (name, "both") in removed and expected.dim():
                    expected = expected[[i for i in range(len(expected)) if i not in positions]]
                elif tensor.shape == own_tensors(others[name])[key].shape and not tensor.any():
                    continue  # zeros before and after
            if not torch.equal(expected, tensor.to(expected.dtype)) and not expected.isnan().any():
                raise UserError(f"pruning: {name}.{key} does not have the values of the kept channels; do not use it")


def _compare(
    model: nn.Module,
    smaller: nn.Module,
    example_input: Inputs,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    removed: Mapping[tuple[str, str], set[int]],
) -> None:
    """Raise UserError if a tensor of the pruned network differs from the masked network's."""
    reference = Reference(model, example_input)
    typical = copy_sharing_tensors(reference.model)
    remove_positions(typical, removed)
    _check_tensors(model, smaller, typical, reference, removed)
    difference = reference.difference(typical, groups, kept, removed)
    if difference:
        names = list(kept)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"pruning {shown}: {difference}, compared with the masked network;"
            " do not prune these groups (python -m common.channels lists those that can be pruned)"
        )
    stale = stale_module(model, smaller, example_input, reference.unreached)
    if stale:
        raise UserError(f"{stale}; remove this module")


def stale_module(
    model: nn.Module,
    smaller: nn.Module,
    inputs: Inputs,
    unreached: Sequence[str],
    of_model: "InputShapes | None" = None,
) -> str | None:
    """Name a module that runs only in training mode (an auxiliary head) and no longer fits its input, with the reason.

    Args:
        unreached: Names of the modules that do not run in eval mode.
        of_model: ``input_shapes(model, inputs, "meta")``, if it is known.
    """
    if not unreached:
        return None
    before, after = of_model or input_shapes(model, inputs, "meta"), input_shapes(smaller, inputs, "meta")
    if not before.complete:  # some networks need values to run
        before, after = input_shapes(model, inputs), input_shapes(smaller, inputs)
    for name in unreached:
        if before.channels.get(name) != after.channels.get(name):
            return f"{name}: it does not run in eval mode, and its input would no longer fit after pruning"
    return None


@dataclass(frozen=True)
class InputShapes:
    """The channels of each parametrized module's input in training mode, up to where the network fails."""

    complete: bool  # whether it does not fail
    channels: dict[str, tuple[int, ...]]


@torch.no_grad()
def input_shapes(model: nn.Module, inputs: Inputs, device: str | None = None) -> InputShapes:
    """Run a copy of a network in training mode, on this device, and note the inputs of its modules."""
    model = (copy_sharing_tensors(model).to(device) if device else copy_network(model)).train()
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def hook(_, inputs) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                shapes[name] = tuple(inputs[0].shape[1:2])

        return hook

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(record(name))
    with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
        call(model, cast_for(model, inputs))
        return InputShapes(True, shapes)
    return InputShapes(False, shapes)
