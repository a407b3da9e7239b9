"""Channel groups of a network, from its traced coupling, in a printable form."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from common.channels.resize import CONVOLUTIONS, WEIGHTED
from common.channels.trace import CoupledChannels


@dataclass(frozen=True)
class ChannelGroup:
    """A set of channels that can only be removed together.

    Attributes:
        name: The first producer in module order; unique.
        size: Number of channels.
        producers: The convolutions and linear layers that produce the channels, in module order.
        consumers: (module name, positions): for each channel c of the group, the input positions at which the module
            reads c.
        pass_through: Normalization layers, depthwise convolutions and option-A shortcuts that pass the channels on
            unmixed.
        reference_layer: The producer nearest to the network's input: the stem for the first residual stage, the
            shortcut convolution where there is one, else the last convolution of the first block.
        conv_groups: Number of equal blocks of consecutive channels that must each keep the same number of channels: the
            groups of a grouped convolution or of a group norm; 1 if there is none.
    """

    name: str
    size: int
    producers: list[str]
    consumers: list[tuple[str, list[list[int]]]]
    pass_through: list[str]
    reference_layer: str
    conv_groups: int = 1

    def __str__(self) -> str:
        reads = ", ".join(f"{module}[{_span(positions)}]" for module, positions in self.consumers)
        lines = [f"{self.name}: {self.size} channels", f"  produced by      {', '.join(self.producers)}"]
        if len(self.producers) > 1:
            lines.append(f"  reference layer  {self.reference_layer}")
        if self.pass_through:
            lines.append(f"  pass through     {', '.join(self.pass_through)}")
        if self.conv_groups > 1:
            lines.append(f"  grouped          keep the same number of channels in each of {self.conv_groups} blocks")
        return "\n".join([*lines, f"  read by          {reads}"])


class ChannelGroups(list[ChannelGroup]):
    """The channel groups of a network, in module order.

    Attributes:
        excluded: Reasons, by name, why other sets of channels are not listed: they cannot be pruned.
    """

    def __init__(self, groups: Iterable[ChannelGroup] = (), excluded: Mapping[str, str] | None = None) -> None:
        super().__init__(groups)
        self.excluded = dict(excluded or {})


def groups_from_traces(model: nn.Module, traces: list[CoupledChannels]) -> ChannelGroups:
    """Convert the result of :func:`common.channels.trace.trace` to channel groups, without trying to prune them.

    Channels that reach an output of the network are neither listed nor excluded.
    """
    groups = ChannelGroups()
    for found in traces:
        group = None if found.reaches_output else _group(model, found)
        if group is None:
            continue
        if found.obstacle:
            groups.excluded[group.name] = found.obstacle
        else:
            groups.append(group)
    return groups


def _group(model: nn.Module, found: CoupledChannels) -> ChannelGroup | None:
    modules = dict(model.named_modules())
    producers, consumers, pass_through, conv_groups = [], [], [], 1
    for part in found.slices:
        module = modules[part.module]
        if part.side == "in":
            positions: list[list[int]] = [[] for _ in range(found.size)]
            for position, channel in sorted(zip(part.positions, part.channels, strict=True)):
                positions[channel].append(position)
            consumers.append((part.module, positions))
        elif part.side == "out" and isinstance(module, WEIGHTED):
            producers.append(part.module)
        else:
            pass_through.append(part.module)
        if isinstance(module, CONVOLUTIONS) and part.side != "both":
            conv_groups = math.lcm(conv_groups, module.groups)
        if isinstance(module, nn.GroupNorm):
            conv_groups = math.lcm(conv_groups, module.num_groups)
    if not consumers and not found.obstacle:
        return None
    return ChannelGroup(found.name, found.size, producers, consumers, pass_through, found.reference_layer, conv_groups)


def _span(positions: list[list[int]]) -> str:
    """Format input positions: "16:32" if they are consecutive."""
    flat = sorted(p for of_channel in positions for p in of_channel)
    if flat == list(range(flat[0], flat[0] + len(flat))):
        return f"{flat[0]}:{flat[-1] + 1}"
    return f"{len(flat)} positions in {flat[0]}:{flat[-1] + 1}"
