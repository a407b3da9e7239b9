"""Channel groups of a network, from its traced coupling, in a printable form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.channels.attention import ATTENTIONS
from common.channels.resize import CONVOLUTIONS, TRANSPOSED, WEIGHTED, is_depthwise
from common.channels.resize import width as width_of
from common.channels.trace import CoupledChannels, LayerSlice


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
            groups of a grouped convolution, or parts of a split; 1 if there is none.
        outputs: For each producer and layer norm whose outputs are not the channels of the group, one by one: the positions
            of each channel. A channel of an attention is a head, one before a group norm is a group of outputs.
        parameters: Parameters of other modules that have a value for each channel, by name.
        across: Linear layers that mix positions and are applied to each channel.
    """

    name: str
    size: int
    producers: list[str]
    consumers: list[tuple[str, list[list[int]]]]
    pass_through: list[str]
    reference_layer: str
    conv_groups: int = 1
    outputs: dict[str, list[list[int]]] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    across: list[str] = field(default_factory=list)

    def per_channel(self, producer: str, of_outputs: Tensor) -> Tensor:
        """Sum values (C_out, ...) of a producer's outputs, such as norms, over the outputs of each channel: (C, ...)."""
        if producer not in self.outputs:
            return of_outputs
        return torch.stack([of_outputs[positions].sum(0) for positions in self.outputs[producer]])

    def __str__(self) -> str:
        reads = ", ".join(f"{module}[{_span(positions)}]" for module, positions in self.consumers)
        lines = [f"{self.name}: {self.size} channels", f"  produced by      {', '.join(self.producers)}"]
        if len(self.producers) > 1:
            lines.append(f"  reference layer  {self.reference_layer}")
        if self.pass_through:
            lines.append(f"  pass through     {', '.join(self.pass_through)}")
        if self.parameters:
            lines.append(f"  parameters       {', '.join(self.parameters)}")
        blocks = max(
            (len(of_channel) for name in self.producers for of_channel in self.outputs.get(name, [])), default=1
        )
        if blocks > 1:
            lines.append(f"  each channel     is {blocks} outputs of a producer, which can only be removed together")
        if self.conv_groups > 1:
            lines.append(f"  grouped          keep the same number of channels in each of {self.conv_groups} blocks")
        return "\n".join([*lines, f"  read by          {reads}"])


class ChannelGroups(list[ChannelGroup]):
    """The channel groups of a network, in module order.

    Attributes:
        excluded: Reasons, by name, why other sets of channels are not listed: they cannot be pruned.
        slices: The channels of each set on every side of a module, by name, as traced.
    """

    def __init__(
        self,
        groups: Iterable[ChannelGroup] = (),
        excluded: Mapping[str, str] | None = None,
        slices: Mapping[str, Sequence[LayerSlice]] | None = None,
    ) -> None:
        super().__init__(groups)
        self.excluded = dict(excluded or {})
        self.slices = dict(slices or {})


def groups_from_traces(model: nn.Module, traces: list[CoupledChannels]) -> ChannelGroups:
    """Convert the result of :func:`common.channels.trace.trace` to channel groups, without trying to prune them.

    Channels that reach an output of the network are neither listed nor excluded.
    """
    groups = ChannelGroups(slices={found.name: found.slices for found in traces})
    for found in traces:
        group = None if found.reaches_output else _group(model, found)
        if group is None:
            continue
        if found.obstacle:
            groups.excluded[group.name] = found.obstacle
        elif group.size % group.conv_groups:
            reason = (
                f"its {group.size} channels do not split into the {group.conv_groups} equal blocks that its layers have"
            )
            groups.excluded[group.name] = reason
        else:
            groups.append(group)
    return groups


def _group(model: nn.Module, found: CoupledChannels) -> ChannelGroup | None:
    modules = dict(model.named_modules())
    producers, consumers, pass_through, conv_groups = [], [], [], found.parts
    outputs: dict[str, list[list[int]]] = {}
    parameters: list[str] = []
    across: list[str] = []
    for part in found.slices:
        module = modules[part.module]
        producer = isinstance(module, (*WEIGHTED, *ATTENTIONS))
        if part.side == "in":
            consumers.append((part.module, _positions(part, found.size)))
        elif part.side == "out" and producer:
            producers.append(part.module)
            if part.channels != part.positions or len(part.positions) != width_of(module, "out"):
                outputs[part.module] = _positions(part, found.size)
        elif part.side.endswith("]"):
            key = part.side.partition("[")[0]
            parameters.append(f"{part.module}.{key}" if part.module else key)
        elif part.side.startswith("across"):
            across.append(part.module)
        elif not part.side.startswith("counts"):
            pass_through.append(part.module)
            if (isinstance(module, nn.LayerNorm) or is_depthwise(module)) and (
                part.channels != part.positions or len(part.positions) != width_of(module, "out")
            ):
                outputs[part.module] = _positions(part, found.size)
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and part.side != "both":
            conv_groups = math.lcm(conv_groups, module.groups)
    if not consumers and not found.obstacle:
        return None
    return ChannelGroup(
        found.name,
        found.size,
        producers,
        consumers,
        pass_through,
        found.reference_layer,
        conv_groups,
        outputs,
        parameters,
        across,
    )


def _positions(part: LayerSlice, size: int) -> list[list[int]]:
    """Return the positions of each channel on one side of a module."""
    positions: list[list[int]] = [[] for _ in range(size)]
    for position, channel in sorted(zip(part.positions, part.channels, strict=True)):
        positions[channel].append(position)
    return positions


def _span(positions: list[list[int]]) -> str:
    """Format input positions: "16:32" if they are consecutive."""
    flat = sorted(p for of_channel in positions for p in of_channel)
    if flat == list(range(flat[0], flat[0] + len(flat))):
        return f"{flat[0]}:{flat[-1] + 1}"
    return f"{len(flat)} positions in {flat[0]}:{flat[-1] + 1}"
