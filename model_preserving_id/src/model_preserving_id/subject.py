"""The network at work: full-size, so that channels keep their numbers, with the removed ones never read; cut at the end."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups, keep_channels
from common.cost import WidthCost, layer_macs
from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import Reading, Statistics, call_order, readings
from model_preserving_id.fold import channel_runs, fold, solve_t
from model_preserving_id.streams import is_stream, prepare_streams, restore_shortcuts, shortcut_names, shortcuts_of


class Subject:
    """A copy of a network, its channel groups that may shrink, and the weights that its consumers had at first.

    model     the copy; what :meth:`shrink` did is in its weights: columns of removed channels are zero
    original  the same network before anything was done to it; its tensors are the given network's own
    groups    by name, in the order of execution
    kept      by name, the channels that stay; groups that are whole are not listed
    cost      MACs for any widths
    """

    def __init__(
        self, model: nn.Module, example_input: Tensor, *, streams: str = "exact", skip: Sequence[str] = ()
    ) -> None:
        device = next(model.parameters()).device
        self.example_input = example_input.to(device)
        self.original = prepare_streams(model, self.example_input, streams, share=True).eval()
        self.model = prepare_streams(model, self.example_input, streams).eval()
        self.turned = [name for name in shortcut_names(model) if streams == "conv"]
        self.streams = streams
        everything = channel_groups(self.model, self.example_input)
        self.cost = WidthCost(self.model, example_input.shape[1:], everything)
        self.dense_macs = sum(layer_macs(model, example_input.shape[1:]).values())
        self.groups = self._usable(everything, skip)
        self.readings = {name: readings([group]) for name, group in self.groups.items()}
        self.kept: dict[str, list[int]] = {}

    def _usable(self, everything: Sequence[ChannelGroup], skip: Sequence[str]) -> dict[str, ChannelGroup]:
        for name in skip:
            if not any(name == group.name or name in group.producers for group in everything):
                raise UserError(
                    f"--skip {name}: no channel group is made by that layer; `python -m common.channels` lists them"
                )
        chosen = [
            group
            for group in everything
            if not (self.streams == "off" and is_stream(group))
            and not any(name == group.name or name in group.producers for name in skip)
        ]
        if everything and not chosen and not skip:
            raise UserError(
                "all channels are those of residual streams, which --streams off leaves whole; --streams exact cuts them, too"
            )
        modules = dict(self.model.named_modules())
        for one in readings(chosen):
            channel_runs(modules[one.consumer], one)  # raises, by name, where no T fits
        order = call_order(
            self.model, [consumer for group in chosen for consumer, _ in group.consumers], self.example_input
        )
        place = {name: i for i, name in enumerate(order)}
        chosen.sort(key=lambda group: min(place[consumer] for consumer, _ in group.consumers))
        self.first_read = {group.name: min(place[consumer] for consumer, _ in group.consumers) for group in chosen}
        self.last_read = {group.name: max(place[consumer] for consumer, _ in group.consumers) for group in chosen}
        return {group.name: group for group in chosen}

    def shortcuts(self, name: str) -> list[str]:
        """The option-A shortcuts that read a group: they can only drop duplicates and dead channels."""
        return shortcuts_of(self.model, self.groups[name])

    def all_readings(self, names: Iterable[str] | None = None) -> list[Reading]:
        """Who reads these groups, or any."""
        return [one for name in (self.groups if names is None else names) for one in self.readings[name]]

    def shrink(self, name: str, kept: Sequence[int], statistics: Statistics | None) -> None:
        """Let all consumers of a group read only ``kept``, with T from the statistics; None drops the rest without T."""
        self.kept[name] = sorted(int(c) for c in kept)
        for one in self.readings[name]:
            self.refold(one, statistics)

    def refold(self, one: Reading, statistics: Statistics | None) -> None:
        """Fold T into one consumer: always into the weights of the original network, whatever was folded before."""
        kept = self.kept[one.group]
        module, before = self.model.get_submodule(one.consumer), self.original.get_submodule(one.consumer)
        if statistics is None:
            t = np.eye(one.size)[kept]
        else:
            t = solve_t(module, one, statistics.grams[one.consumer], kept, statistics.cross.get(one.consumer))
        fold(module, before.source if isinstance(before, PadShortcut) else before.weight.detach(), one, kept, t)

    def widths(self) -> dict[str, int]:
        """How many channels each group has now."""
        return {name: len(self.kept.get(name, range(group.size))) for name, group in self.groups.items()}

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """MACs at these widths, or at the present ones."""
        return self.cost.macs(self.widths() if widths is None else widths)

    def downstream(self, names: Iterable[str]) -> list[str]:
        """Groups whose statistics change when these groups are cut: something reads them after the first reader of a cut one."""
        cut = [self.first_read[name] for name in names]
        return [name for name in self.groups if cut and self.last_read[name] > min(cut)]

    def cut(self) -> nn.Module:
        """A new network without the removed channels, verified by ``common.channels``; shortcuts that only select are such again."""
        kept = {name: channels for name, channels in self.kept.items() if len(channels) < self.groups[name].size}
        smaller = keep_channels(self.model, self.example_input, kept)
        return restore_shortcuts(smaller, self.turned).eval()


def checked_inputs(batches) -> Iterable[Tensor]:
    """Inputs without labels that can be read several times. Raises UserError for labels, and for nothing at all."""
    if isinstance(batches, Tensor):
        return [batches]
    if iter(batches) is batches:
        batches = list(batches)
    first = next(iter(batches), None)
    if first is None:
        raise UserError("there are no inputs to prune with; give at least one batch")
    if not isinstance(first, Tensor):
        raise UserError(f"batches of inputs are tensors (N, ...), without labels; got a {type(first).__name__}")
    return batches


def finite(model: nn.Module) -> None:
    """Raises UserError, naming the tensor, for a network with infinities or nan in it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"the network's {name} holds infinities or nan; its weights are damaged")
