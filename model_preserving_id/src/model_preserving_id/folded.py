"""A full-size network with folded consumers: channels keep their indices, and removed channels are not read."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, ChannelGroups, channel_groups, keep_channels
from common.channels.attention import is_called
from common.channels.resize import TRANSPOSED
from common.channels.shortcuts import restore_shortcuts
from common.cost import WidthCost, count_cost
from common.cost.widths import TargetCost
from common.errors import UserError
from common.layers import weight_of
from common.limits import Limits
from common.methods import Decision
from common.models import PadShortcut
from model_preserving_id.activations import ConsumerInput, GramStatistics, consumer_inputs, find_call_order
from model_preserving_id.fold import assign_conv_groups, fold, solve_t
from model_preserving_id.residual import copy_network, find_shortcuts, is_residual_stream


class FoldedNetwork:
    """A copy of a network, its prunable channel groups, and its consumers' weights before pruning.

    Attributes:
        given: The network itself, which is not modified.
        model: The copy, in eval mode. :meth:`prune_group` changes its weights: the columns of removed channels are zero.
        unpruned: ``model`` before pruning; on its own device it uses the given network's tensors.
        limits: The groups that may be pruned, and their allowed widths.
        all_groups: All channel groups of the copy; those of the given network if ``known_groups``, unless layers are replaced.
        groups: Those that may be pruned, by name, in the order of execution.
        kept: By name, the kept channels; groups that are not listed are not pruned.
        cost: MACs at any widths.
        dense_macs: MACs of the given network.
        target_cost: What a target is a fraction of, at any widths: MACs, or predicted seconds.
        sensitivity: Measured sensitivities, {group: {width: sensitivity}}; see :mod:`model_preserving_id.sensitivity`.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        residual: str = "exact",
        limits: Limits | None = None,
        device: torch.device | str | None = None,
        target_cost: TargetCost | None = None,
        known_groups: ChannelGroups | None = None,
    ) -> None:
        self.given, self.residual, self.limits = model, residual, limits or Limits()
        home = next(model.parameters()).device
        self.device = home if device is None else torch.device(device)
        example = example.to(home)
        share_tensors = self.device == home
        self.unpruned = copy_network(model, example, residual, share_tensors).to(self.device).eval()
        self.model = copy_network(model, example, residual).to(self.device).eval()
        self.example = example.to(self.device)
        known = known_groups if residual != "conv" else None  # conv replaces layers
        self.all_groups = channel_groups(self.model, self.example) if known is None else known
        self.cost = WidthCost(self.model, example.shape[1:], self.all_groups)
        self.dense_macs = count_cost(model, example.shape[1:]).macs
        self.target_cost: TargetCost = target_cost or self.cost
        self.groups = self._select_groups(self.all_groups)
        self._inputs_of = {name: consumer_inputs([group]) for name, group in self.groups.items()}
        self.kept: dict[str, list[int]] = {}
        self.sensitivity: dict[str, dict[int, float]] = {}

    def _select_groups(self, groups: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
        for name in self.limits.ignored:
            if not any(name == group.name or name in group.producers for group in groups):
                raise UserError(
                    f"--ignored-layers {name}: no channel group is produced by that layer;"
                    " `python -m common.channels` lists the groups"
                )
        chosen = [group for group in groups if not (self.residual == "keep" and is_residual_stream(group))]
        if groups and not chosen:
            raise UserError(
                "--residual keep: all channels belong to residual streams, which are not pruned; use --residual exact"
            )
        chosen = [group for group in chosen if self.limits.allows(group) and self._can_fold(group)]
        if groups and not chosen and not self.limits.ignored:
            raise UserError("no channel group can be folded into the layers that read it; use another method")
        modules = dict(self.model.named_modules())
        for one in consumer_inputs(chosen):
            assign_conv_groups(modules[one.consumer], one)  # raises an error, with the name, where no T exists
        order = find_call_order(
            self.model, [consumer for group in chosen for consumer, _ in group.consumers], self.example
        )
        place = {name: i for i, name in enumerate(order)}
        chosen.sort(key=lambda group: min(place[consumer] for consumer, _ in group.consumers))
        self.first_read = {group.name: min(place[consumer] for consumer, _ in group.consumers) for group in chosen}
        self.last_read = {group.name: max(place[consumer] for consumer, _ in group.consumers) for group in chosen}
        return {group.name: group for group in chosen}

    def _can_fold(self, group: ChannelGroup) -> bool:
        """Return whether all layers that read a group can have T folded in; warn, with the reason, if not."""
        modules = dict(self.model.named_modules())
        reason = next(
            (
                f"{name} is a {type(modules[name]).__name__}, into which T cannot be folded"
                for name, _ in group.consumers
                if isinstance(modules[name], TRANSPOSED) or not is_called(self.model, name)
            ),
            None,
        ) or next(
            (
                f"{name} normalizes over the channels that remain"
                for name in group.pass_through
                if isinstance(modules[name], nn.LayerNorm)
            ),
            None,
        )
        if reason:
            warnings.warn(f"{group.name} is not pruned: {reason}", stacklevel=2)
        return reason is None

    def shortcuts(self, name: str) -> list[str]:
        """Return the option-A shortcuts that read a group; they can only drop duplicates and dead channels."""
        return find_shortcuts(self.model, self.groups[name])

    def consumer_inputs(self, names: Iterable[str] | None = None) -> list[ConsumerInput]:
        """Return the consumer inputs of these groups, or of all."""
        return [one for name in (self.groups if names is None else names) for one in self._inputs_of[name]]

    def narrow_group(self, name: str, kept: Sequence[int], statistics: GramStatistics) -> None:
        """Remove further channels of a group, with T folded into the weights that the consumers have now (iterative pruning).

        Statistics are those of the group as it is pruned now (:meth:`GramStatistics.restricted`).
        """
        self.kept[name] = sorted(int(c) for c in kept)
        for one in self._inputs_of[name]:
            module = self.model.get_submodule(one.consumer)
            now = module.source if isinstance(module, PadShortcut) else weight_of(module)
            t = solve_t(module, one, statistics.grams[one.consumer], self.kept[name])
            fold(module, now.detach().clone(), one, self.kept[name], t)

    def prune_group(self, name: str, kept: Sequence[int], statistics: GramStatistics | None) -> None:
        """Make all consumers of a group read only ``kept``, with T from the statistics; None: drop the other channels without T."""
        self.kept[name] = sorted(int(c) for c in kept)
        for one in self._inputs_of[name]:
            self.refold_consumer(one, statistics)

    def refold_consumer(self, one: ConsumerInput, statistics: GramStatistics | None) -> None:
        """Fold T into one consumer, starting from its weight before pruning, whatever was folded before."""
        kept = self.kept[one.group]
        module, before = self.model.get_submodule(one.consumer), self.unpruned.get_submodule(one.consumer)
        if statistics is None:
            t = np.eye(one.size)[kept]
        else:
            t = solve_t(module, one, statistics.grams[one.consumer], kept, statistics.cross.get(one.consumer))
        fold(module, before.source if isinstance(before, PadShortcut) else weight_of(before).detach(), one, kept, t)

    def widths(self) -> dict[str, int]:
        """Return the current number of channels of every group."""
        return {name: len(self.kept.get(name, range(group.size))) for name, group in self.groups.items()}

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """Return the MACs at these widths, or at the current ones."""
        return self.cost.macs(self.widths() if widths is None else widths)

    def spent(self, widths: Mapping[str, int] | None = None) -> float:
        """Return the MACs or predicted seconds at these widths, or at the current ones."""
        return self.target_cost.of(self.widths() if widths is None else widths)

    @property
    def dense_spent(self) -> float:
        """MACs or predicted seconds of the given network."""
        return self.dense_macs if self.target_cost is self.cost else self.target_cost.dense

    def downstream(self, names: Iterable[str]) -> list[str]:
        """Return the groups whose statistics change when these are pruned: a consumer follows the first consumer of one of them."""
        first = [self.first_read[name] for name in names]
        return [name for name in self.groups if first and self.last_read[name] > min(first)]

    @property
    def pruned_groups(self) -> list[str]:
        """Names of the groups with removed channels."""
        return [name for name, kept in self.kept.items() if len(kept) < self.groups[name].size]

    def decision(self, **more: Any) -> Decision:
        """Return the kept channels and the full-size network that they refer to. ``more``: other fields of a Decision."""
        kept = {name: self.kept[name] for name in self.pruned_groups}
        return Decision(kept, self.model if kept else None, **more)

    def build_pruned(self) -> nn.Module:
        """Build a new network without the removed channels, in eval mode, on the same device."""
        kept = self.decision().kept
        return restore_shortcuts(
            keep_channels(self.model, self.example, kept, groups=self.all_groups), self.given
        ).eval()
