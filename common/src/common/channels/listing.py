"""List the channel groups of a network; those that cannot be pruned are found by trying, and reported with a reason."""

import random
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from common.channels.exact import TOLERANCE, Reference, Sides, cast_for
from common.channels.example import Inputs, call, copy_sharing_tensors, input_tensors
from common.channels.groups import ChannelGroup, ChannelGroups, groups_from_traces
from common.channels.remove import InputShapes, input_shapes, remove_positions, removed_positions, stale_module
from common.channels.resize import WEIGHTED, own_tensors, remove_channels, width
from common.channels.trace import LayerSlice, trace
from common.errors import UserError
from common.layers import weight_of
from common.wrapped import plain_network

SMALLER_SIZES = (64, 96, 128)  # pixels of images to try the pruning on, if the network reads larger ones

_known: "weakref.WeakKeyDictionary[object, dict[object, dict[str, str]]]" = weakref.WeakKeyDictionary()


def channel_groups(model: nn.Module, example_input: Inputs) -> ChannelGroups:
    """Return the channel groups of a network, in module order.

    Channels that reach an output of the network are not listed. Channels that cannot be pruned are not listed either:
    ``excluded`` of the result has the reason for each, and a warning names them. Whether they can is tried once per
    network: all groups are pruned at once, and if the result differs from the masked network, parts of them.

    Args:
        example_input: Batch of the shape that the network reads, e.g. (1, 3, 32, 32); a tuple or a dict for several
            inputs.

    Raises:
        UserError: If the network cannot be traced.
    """
    model = plain_network(model)
    groups = groups_from_traces(model, trace(model, example_input))
    owner, structure = _structure(model, example_input)
    known = _known.setdefault(owner, {})
    if structure not in known:
        entangled = _entangled(model, groups)
        attempts = _Attempts(model, example_input, groups.slices)
        known[structure] = entangled | attempts.fail([group for group in groups if group.name not in entangled])
    excluded = groups.excluded | known[structure]
    for name, reason in excluded.items():
        warnings.warn(f"{name} is not listed as a channel group: {reason}", stacklevel=2)
    return ChannelGroups([group for group in groups if group.name not in excluded], excluded, groups.slices)


def _structure(model: nn.Module, example_input: Inputs) -> tuple[object, object]:
    """Return what the result of trying depends on: whose code runs, and its layers, their shapes and those of the input.

    The code is that of the network itself, or of its class if all of its modules are torch's and this package's.
    """
    layers = tuple(
        (name, type(module), module.extra_repr(), *((key, tensor.shape) for key, tensor in own_tensors(module).items()))
        for name, module in model.named_modules()
    )
    ours = all(kind.__module__.split(".")[0] in ("torch", "common") for _, kind, *_ in layers)
    inputs = tuple((tensor.shape, tensor.dtype) for tensor in input_tensors(example_input))
    return type(model) if ours and not isinstance(model, nn.Sequential) else model, (layers, inputs)


def _entangled(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, str]:
    """Return reasons for groups whose consumers are of a type of the user's that mixes weights of several inputs.

    Weight standardization is an example. Each such layer is tried alone, which saves attempts with the network.
    """
    reasons, results = {}, dict[str, bool]()
    for group in groups:
        for name, _ in group.consumers:
            module = model.get_submodule(name)
            if type(module).__module__.startswith(("torch.", "common.")):
                continue
            if name not in results:
                results[name] = _reads_inputs_separately(module)
            if not results[name]:
                kind = type(module).__name__
                reasons[group.name] = f"{name} is a {kind}, whose weights depend on all of its input channels"
                break
    return reasons


@torch.no_grad()
def _reads_inputs_separately(module: nn.Module) -> bool:
    """Return whether a layer without some inputs equals the layer with these inputs set to zero; True if it cannot run."""
    if not isinstance(module, WEIGHTED) or "weight" not in module._parameters:
        return True
    total, blocks = width(module, "in"), getattr(module, "groups", 1)
    removed = {position for position in range(total) if position % (total // blocks) >= max(1, total // blocks // 2)}
    kept = [position for position in range(total) if position not in removed]
    try:
        layer = copy_sharing_tensors(module, dtype=torch.float64).eval()
        smaller = copy_sharing_tensors(layer)
        remove_channels("", smaller, "in", removed)
        sizes = [3 * (size - 1) + 4 for size in getattr(module, "kernel_size", ())]
        x = torch.randn(1, total, *sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = x.to(weight_of(layer).device)
        x[:, sorted(removed)] = 0
        expected, found = layer(x), smaller(x[:, kept])
    except Exception:  # of the user's code
        return True
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())


class _Attempts:
    """Attempts to prune groups of a network, with batch norm at typical statistics.

    Each removes at random a third to a half of the channels, in each group another number: groups that are coupled, but
    not traced as one, would otherwise fit by chance.
    """

    def __init__(self, model: nn.Module, example_input: Inputs, slices: Mapping[str, Sequence[LayerSlice]]) -> None:
        self.example_input, self.slices = example_input, slices
        self.reference = Reference(model, _smaller_images(model, example_input), scales=(1.0,))

    def fail(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Return the reasons, by name, why groups cannot be pruned, alone or with those that can."""
        groups = [group for group in groups if group.size > group.conv_groups]
        if not groups or self._difference(groups) is None:
            return {}
        excluded = self._search(groups, self._misfit)  # takes little time
        excluded |= self._search([group for group in groups if group.name not in excluded], self._difference)
        left = [group for group in groups if group.name not in excluded]
        if excluded and len(left) > 1 and self._difference(left):
            fitting: list[ChannelGroup] = []
            for group in left:
                reason = self._difference([*fitting, group])
                if reason:
                    excluded[group.name] = f"pruned along with other groups, {reason}"
                else:
                    fitting.append(group)
        order = [group.name for group in groups]
        return {name: excluded[name] for name in sorted(excluded, key=order.index)}

    def _search(self, groups: Sequence[ChannelGroup], reason_of: Callable[..., str | None]) -> dict[str, str]:
        """Return the groups that fail alone, by halving sets that fail."""
        reason = reason_of(groups) if groups else None
        if reason is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        middle = len(groups) // 2
        return self._search(groups[:middle], reason_of) | self._search(groups[middle:], reason_of)

    def _misfit(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Return why the layers of the pruned network do not fit each other, by their shapes; None if they do."""
        if self.reference.shapes is None:
            return None
        _, removed, smaller = self._pruned(self.reference.shapes.model, groups)
        if isinstance(smaller, str):
            return smaller
        return self.reference.misfit(smaller, removed) or self._stale(self.reference.shapes.model, smaller)

    def _difference(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Return how the pruned network differs from the masked one; None if it does not."""
        kept, removed, smaller = self._pruned(self.reference.model, groups)
        if isinstance(smaller, str):
            return smaller
        return self.reference.difference(smaller, groups, kept, removed) or self._stale(self.reference.model, smaller)

    def _pruned(
        self, model: nn.Module, groups: Sequence[ChannelGroup]
    ) -> tuple[dict[str, list[int]], Sides, nn.Module | str]:
        """Return the kept channels, the removed positions and the pruned network, or the reason why there is none."""
        kept = {group.name: _some_channels(group, i) for i, group in enumerate(groups)}
        removed = removed_positions(self.slices, kept)
        smaller = copy_sharing_tensors(model)
        try:
            remove_positions(smaller, removed)
        except UserError as error:
            return kept, removed, str(error)
        except Exception as error:  # a layer whose tensors are not those of its type
            return kept, removed, f"its layers cannot be resized: {error}"
        return kept, removed, smaller

    def _stale(self, model: nn.Module, smaller: nn.Module) -> str | None:
        unreached = self.reference.unreached
        return stale_module(model, smaller, self.example_input, unreached, self._in_training if unreached else None)

    @cached_property
    def _in_training(self) -> InputShapes:
        return input_shapes(self.reference.model, self.example_input, "meta")


def _some_channels(group: ChannelGroup, index: int) -> list[int]:
    """Select a half to two thirds of a group's channels, the same number in each block, most of them in one half of it."""
    block = group.size // group.conv_groups
    generator, removed = random.Random(index), min(block - 1, max(1, block // (2 + index % 2) - index // 2 % 3))
    kept = []
    for first in range(0, block * group.conv_groups, block):
        halves = [list(range(block // 2)), list(range(block // 2, block))]
        if index % 2:
            halves.reverse()
        many = min(len(halves[0]), -(-2 * removed // 3))
        gone = {*generator.sample(halves[0], many), *generator.sample(halves[1], removed - many)}
        kept += [first + channel for channel in range(block) if channel not in gone]
    return kept


def _smaller_images(model: nn.Module, example_input: Inputs) -> Inputs:
    """Return the smallest images that the network accepts of SMALLER_SIZES, which saves time, or the given ones."""
    if not isinstance(example_input, Tensor) or example_input.dim() != 4:
        return example_input
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for size in SMALLER_SIZES:
            if size < min(example_input.shape[2:]):
                images = example_input[:1, :, :size, :size]
                try:
                    with torch.no_grad():
                        call(model, cast_for(model, images))
                except Exception:  # of any kind: the network does not accept this size
                    continue
                return images
    finally:
        for module, mode in training.items():
            module.training = mode
    return example_input
