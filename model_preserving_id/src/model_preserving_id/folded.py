"""A network whose consumers are folded: full-size, so that channels keep their numbers; removed channels are never read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups, keep_channels
from common.channels.shortcuts import restore_shortcuts
from common.cost import WidthCost, layer_macs
from common.errors import UserError
from common.layers import weight_of
from common.methods import Decision
from common.models import PadShortcut
from common.trained_model import Limits
from model_preserving_id.activations import Reading, Statistics, call_order, readings
from model_preserving_id.fold import channel_runs, fold, solve_t
from model_preserving_id.streams import is_stream, prepare_streams, shortcuts_of


class FoldedNetwork:
    """A copy of a network, its channel groups that may shrink, and the weights that its consumers had at first.

    Attributes:
        given: The network itself; nothing changes it.
        model: The copy, in eval mode; what :meth:`shrink` did is in its weights: columns of removed channels are zero.
        original: The given network as ``model`` was at first; on its own device the tensors are the given network's.
        limits: Which groups may shrink, and to which widths.
        groups: By name, in the order of execution.
        kept: By name, the channels that stay; groups that are not listed are not pruned.
        cost: MACs for any widths.
        dense_macs: MACs of the given network.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        streams: str = "exact",
        limits: Limits | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.given, self.streams, self.limits = model, streams, limits or Limits()
        home = next(model.parameters()).device
        self.device = home if device is None else torch.device(device)
        example = example.to(home)
        share = self.device == home
        self.original = prepare_streams(model, example, streams, share).to(self.device).eval()
        self.model = prepare_streams(model, example, streams).to(self.device).eval()
        self.example = example.to(self.device)
        everything = channel_groups(self.model, self.example)
        self.cost = WidthCost(self.model, example.shape[1:], everything)
        self.dense_macs = sum(layer_macs(model, example.shape[1:]).values())
        self.groups = self._usable(everything)
        self.readings = {name: readings([group]) for name, group in self.groups.items()}
        self.kept: dict[str, list[int]] = {}

    def _usable(self, everything: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
        for name in self.limits.ignored:
            if not any(name == group.name or name in group.producers for group in everything):
                raise UserError(
                    f"--skip {name}: no channel group is made by that layer; `python -m common.channels` lists them"
                )
        chosen = [group for group in everything if not (self.streams == "off" and is_stream(group))]
        if everything and not chosen:
            raise UserError(
                "all channels are those of residual streams, which --streams off leaves whole; --streams exact cuts them, too"
            )
        chosen = [group for group in chosen if self.limits.allow(group)]
        modules = dict(self.model.named_modules())
        for one in readings(chosen):
            channel_runs(modules[one.consumer], one)  # raises, by name, where no T fits
        order = call_order(self.model, [consumer for group in chosen for consumer, _ in group.consumers], self.example)
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
        fold(module, before.source if isinstance(before, PadShortcut) else weight_of(before).detach(), one, kept, t)

    def widths(self) -> dict[str, int]:
        """How many channels each group has now."""
        return {name: len(self.kept.get(name, range(group.size))) for name, group in self.groups.items()}

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """MACs at these widths, or at the present ones."""
        return self.cost.macs(self.widths() if widths is None else widths)

    def downstream(self, names: Iterable[str]) -> list[str]:
        """Groups whose statistics change when these groups shrink: something reads them after the first reader of one."""
        first = [self.first_read[name] for name in names]
        return [name for name in self.groups if first and self.last_read[name] > min(first)]

    @property
    def removed_from(self) -> list[str]:
        """The groups that have lost channels."""
        return [name for name, kept in self.kept.items() if len(kept) < self.groups[name].size]

    def decision(self, **more: Any) -> Decision:
        """The channels that stay and this full-size network that they are taken from. more: other fields of a Decision."""
        kept = {name: self.kept[name] for name in self.removed_from}
        return Decision(kept, self.model if kept else None, **more)

    def pruned(self) -> nn.Module:
        """A new network without the removed channels, in eval mode, on this one's device."""
        kept = self.decision().kept
        return restore_shortcuts(keep_channels(self.model, self.example, kept), self.given).eval()
