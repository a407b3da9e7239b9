"""The printable answer to 'what is coupled?'"""

import warnings
from dataclasses import dataclass

from torch import Tensor, nn

from common.channels.resize import CONVOLUTIONS, WEIGHTED
from common.channels.trace import CoupledChannels, trace


@dataclass(frozen=True)
class ChannelGroup:
    """A set of channels that can only be removed together.

    name       the first producer in module order; unique
    size       number of channels
    producers  the convolutions and linear layers that make them, in module order
    consumers  (module, positions): for each channel c the input positions at which that module reads c
    followers  norms, depthwise convolutions and option-A shortcuts that carry them without mixing
    decider    the producer nearest to the network's input: the stem for a first residual stage, the shortcut
               convolution where there is one, else the first block's last convolution
    conv_groups     the kept channels must be equally many in each of this many equal runs of channels (grouped layers)
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
        lines = [f"{self.name}: {self.size} channels", f"  made by  {', '.join(self.producers)}"]
        if len(self.producers) > 1:
            lines.append(f"  reference layer  {self.reference_layer}")
        if self.pass_through:
            lines.append(f"  through  {', '.join(self.pass_through)}")
        if self.conv_groups > 1:
            lines.append(f"  equally many in each of {self.conv_groups} runs")
        return "\n".join([*lines, f"  read by  {reads}"])


def channel_groups(model: nn.Module, example_input: Tensor) -> list[ChannelGroup]:
    """The groups of a network, in module order; ``example_input`` is a batch of the shape that it reads.

    Channels that reach an output are not listed, nor (with a warning that names them) channels that pass through
    something that cannot be cut. Raises UserError if the network cannot be traced.
    """
    return groups_of_traces(model, trace(model, example_input))


def groups_of_traces(model: nn.Module, traces: list[CoupledChannels]) -> list[ChannelGroup]:
    groups = []
    for found in traces:
        group = _group(model, found)
        if group is None or found.reaches_output:
            continue
        if found.obstacle:
            warnings.warn(f"{group.name} is not listed as a channel group: {found.obstacle}", stacklevel=3)
            continue
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
            conv_groups = max(conv_groups, module.groups)
        if isinstance(module, nn.GroupNorm):
            conv_groups = max(conv_groups, module.num_groups)
    if not consumers:
        return None
    return ChannelGroup(found.name, found.size, producers, consumers, pass_through, found.reference_layer, conv_groups)


def _span(positions: list[list[int]]) -> str:
    flat = sorted(p for of_channel in positions for p in of_channel)
    if flat == list(range(flat[0], flat[0] + len(flat))):
        return f"{flat[0]}:{flat[-1] + 1}"
    return f"{len(flat)} positions in {flat[0]}:{flat[-1] + 1}"
