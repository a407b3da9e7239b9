"""Limits on the channels that may be removed: excluded layers, floors, ceilings and multiples.

Commands take them from :class:`common.options.LimitOptions`. Methods choose among :meth:`Limits.widths`;
:mod:`common.pipeline` checks every decision and every written network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from common.channels.resize import width
from common.errors import UserError
from common.layers import Layer

if TYPE_CHECKING:
    from torch import nn

    from common.channels import ChannelGroup
    from common.cost.widths import TargetCost
    from common.target import Target

ROUNDING = 1e-9  # of a number of channels
DIGITS = 4  # of a fraction of the MACs in a message


@dataclass(frozen=True)
class Limits:
    """Limits on the channels that may be removed.

    Attributes:
        ignored: Names of groups, or of layers in them, that are not pruned.
        only: Names of the only groups that may be pruned, or of all of their producers; None for all.
        min_channels: Smallest number of outputs that a pruned layer keeps.
        max_pruned: Largest fraction of a group's channels that may be removed.
        round_to: Number that the widths of pruned layers are multiples of.
        layers: Names of the layers with weights that ``ignored_layers`` and ``only`` exclude. Methods that target bytes leave them alone.
        dense: (group, channels) of the network that ``max_pruned`` refers to; groups that are not listed have their own size.
    """

    ignored: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    min_channels: int = 1
    max_pruned: float = 1.0
    round_to: int = 1
    layers: tuple[str, ...] = ()
    dense: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        ignored_layers: Sequence[str] = (),
        only: Sequence[str] | None = None,
        min_channels: int = 1,
        max_pruned: float = 1.0,
        round_to: int = 1,
        *,
        option: Callable[[str], str] = str,
    ) -> Limits:
        """Return the limits of a network, with patterns of layer names replaced by the names of its groups.

        A pattern that matches a module also matches the modules in it. A group is ignored if one of its layers matches; for
        ``only``, all layers that produce its channels must match.

        Args:
            model: The network.
            groups: All of its channel groups.
            option: Function from a parameter's name to its name in error messages.

        Raises:
            UserError: If a pattern matches nothing or a number is out of range.
        """
        if min_channels < 1 or round_to < 1 or not 0 < max_pruned <= 1:
            raise UserError(
                f"{option('min_channels')} {min_channels}, {option('round_to')} {round_to}, {option('max_pruned')} "
                f"{max_pruned:g}: give integers of at least 1 and a fraction in (0, 1]"
            )
        names = [name for name, _ in model.named_modules() if name]
        weighted = [name for name, module in model.named_modules() if isinstance(module, Layer)]
        ignored = matching_layers(names, ignored_layers, option("ignored_layers"))
        chosen = matching_layers(names, only or (), option("only"))
        return cls(
            tuple(group.name for group in groups if ignored & {group.name, *group.producers, *group.pass_through}),
            tuple(group.name for group in groups if set(group.producers) <= chosen) if only else None,
            min_channels,
            max_pruned,
            round_to,
            tuple(name for name in weighted if name in ignored or (only and name not in chosen)),
            tuple((group.name, group.size) for group in groups) if max_pruned < 1 else (),
        )

    def __bool__(self) -> bool:
        """Return whether anything is limited."""
        return self.identity() != Limits().identity()

    def identity(self) -> dict[str, Any]:
        """Return the values that a run folder records."""
        values = asdict(self)
        return {name: values[name] for name in values if name != "dense" and (name != "layers" or self.layers)}

    def allows(self, group: ChannelGroup) -> bool:
        """Return whether a group may be pruned."""
        if set(self.ignored) & {group.name, *group.producers, *group.pass_through}:
            return False
        return self.only is None or group.name in self.only or set(group.producers) <= set(self.only)

    def step(self, group: ChannelGroup) -> int:
        """Return the number of channels that the widths of a pruned group are multiples of."""
        return math.lcm(group.conv_groups, self._multiple(group))

    def _multiple(self, group: ChannelGroup) -> int:
        """Return the number of channels that have a multiple of ``round_to`` outputs in every producer."""
        return math.lcm(*(self.round_to // math.gcd(self.round_to, count) for count in _outputs(group)))

    def min_kept(self, group: ChannelGroup) -> int:
        """Return the smallest number of channels to keep in a group."""
        dense = dict(self.dense).get(group.name, group.size)
        floor = math.ceil(self.min_channels / min(_outputs(group)))
        return min(group.size, max(floor, math.ceil(dense - self.max_pruned * dense - ROUNDING)))

    def widths(self, group: ChannelGroup) -> tuple[int, ...]:
        """Return the allowed numbers of channels of a group, ascending; the last one is its size."""
        step, low = self.step(group), self.min_kept(group)
        inner = range(max(step, math.ceil(low / step) * step), group.size, step) if self.allows(group) else ()
        return (*inner, group.size)

    def at_least(self, group: ChannelGroup, count: int) -> int:
        """Return the smallest allowed number of channels that is not below ``count``."""
        return next(width for width in self.widths(group) if width >= min(count, group.size))

    def check(self, kept: Mapping[str, Sequence[int]], groups: Iterable[ChannelGroup]) -> None:
        """Raise UserError, naming the group, if kept channels violate the limits. kept: {group: channel indices}."""
        known = {group.name: group for group in groups}
        for name, channels in kept.items():
            if name in known and (problem := self.violation(known[name], len(channels))):
                raise UserError(problem)

    def violation(self, group: ChannelGroup, count: int) -> str:
        """Return how ``count`` kept channels of a group violate the limits; empty if they do not."""
        kept = f"group {group.name}: {count} of {group.size} channels would be kept"
        if count == group.size:
            return ""
        if not self.allows(group):
            return f"{kept}, but the limits exclude it from pruning; keep all of them"
        if count < self.min_kept(group):
            return f"{kept}, but the limit is at least {self.min_kept(group)}"
        if count % self._multiple(group):
            return f"{kept}, which is not a multiple of {self._multiple(group)}"
        return ""

    def check_network(self, given: nn.Module, written: nn.Module, groups: Iterable[ChannelGroup]) -> None:
        """Raise UserError, naming the layer, if a written network is narrower than the limits allow.

        Args:
            given: The network before pruning.
            written: The network that was read back from its file.
            groups: All channel groups of the given network.
        """
        allowed = self.layer_widths(given, groups)
        for name, widths in allowed.items():
            before, after = (width(network.get_submodule(name), "out") for network in (given, written))
            if after not in widths:
                raise UserError(
                    f"layer {name}: {after} of {before} channels are kept, but the limits allow {_listed(widths)}"
                )

    def layer_widths(self, model: nn.Module, groups: Iterable[ChannelGroup]) -> dict[str, Sequence[int]]:
        """Return the allowed numbers of outputs, ascending, of every layer that produces channels of the groups."""
        parts: dict[str, list[ChannelGroup]] = {}
        for group in groups:
            for name in group.producers:
                parts.setdefault(name, []).append(group)
        found: dict[str, Sequence[int]] = {}
        for name, groups_of in parts.items():
            size = width(model.get_submodule(name), "out")
            removed = [
                {(group.size - kept) * _outputs_of(group, name) for kept in self.widths(group)} for group in groups_of
            ]
            sums = {0}
            for of_group in removed:
                sums = {one + other for one in sums for other in of_group}
            found[name] = sorted(size - total for total in sums)
        return found

    def require_reachable(self, target: Target, groups: Sequence[ChannelGroup], cost: TargetCost) -> None:
        """Raise UserError, with the smallest possible target, if the limits keep more than the target. groups: all of them."""
        least = cost.of({group.name: self.widths(group)[0] for group in groups}) / cost.dense
        if least > target.fraction:
            possible = math.ceil(least * 10**DIGITS - ROUNDING) / 10**DIGITS
            raise UserError(
                f"{target.option}: the limits on layers keep at least {least:.4f} of the {target.what}; the smallest "
                f"possible target is {possible:g}"
            )


def _outputs(group: ChannelGroup) -> list[int]:
    """Return the outputs per channel of each producer: several for an attention's head or a group before a group norm."""
    return [_outputs_of(group, name) for name in group.producers] or [1]


def _outputs_of(group: ChannelGroup, producer: str) -> int:
    return max(map(len, group.outputs[producer])) if producer in group.outputs else 1


def _listed(widths: Sequence[int], shown: int = 8) -> str:
    text = ", ".join(map(str, widths[:shown]))
    return text if len(widths) <= shown else f"{text}, ... {widths[-1]}"


def matching_layers(names: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    """Return the names that match a pattern, and those below them. Raises UserError for a pattern that matches nothing."""
    if isinstance(patterns, str):
        raise UserError(f"{what} {patterns!r}: give a list of patterns, such as [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            known = ", ".join(islice(names, 5))
            raise UserError(f"{what} {pattern!r}: no layer has such a name; the first are {known}")
        inside = tuple(f"{match}." for match in matches)
        found |= {name for name in names if name in matches or name.startswith(inside)}
    return found
