"""Compute the MACs of a network for any widths of its channel groups, in closed form."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from torch import nn

from common.channels import ChannelGroup
from common.channels.resize import is_depthwise, width
from common.cost.calls import layer_macs
from common.cost.rules import conv_linear


class TargetCost(Protocol):
    """What a target is a fraction of, as a function of the widths of the channel groups: MACs or seconds.

    Attributes:
        dense: Cost of the unpruned network.
    """

    dense: Any

    def of(self, kept: Mapping[str, int]) -> float:
        """Return the cost if group ``name`` keeps ``kept[name]`` channels; groups not listed keep all channels."""


class WidthCost:
    """MACs of a network as a function of the widths of its channel groups, without building or running pruned networks.

    Exact if a consumer reads each channel of a group at the same number of positions, as in all registered networks, and
    if the convolutions and linear layers that are not modules, but functions, do not depend on the widths.

    Attributes:
        by_layer: Cost of each layer, by name.
        dense: MACs of the unpruned network, as :func:`common.cost.count_cost` counts them.
        other: MACs of functions, or minus those of modules that are not counted; taken as independent of the widths.
        sizes: Number of channels of each group, by name.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], groups: Sequence[ChannelGroup]) -> None:
        modules = dict(model.named_modules())
        group_of = {layer: group for group in groups for layer in (*group.producers, *group.pass_through)}
        self.by_layer = {
            name: LayerCost.from_layer(name, modules[name], macs, group_of, groups)
            for name, macs in layer_macs(model, input_shape).items()
        }
        self.layers = list(self.by_layer.values())
        self.sizes = {group.name: group.size for group in groups}
        self.other = 0
        self.dense = total = conv_linear.count(model, tuple(input_shape))[0]
        self.other = total - self.macs({})
        if self.other:
            warnings.warn(
                f"{type(model).__name__}: {abs(self.other):,} of {total:,} MACs are not those of convolution or linear "
                "modules; they are taken as independent of the widths",
                stacklevel=2,
            )

    def macs(self, kept: Mapping[str, int]) -> int:
        """Return the MACs if group ``name`` keeps ``kept[name]`` channels; groups not listed keep all channels."""
        widths = {**self.sizes, **kept}
        return sum(layer.macs(widths) for layer in self.layers) + self.other

    def of(self, kept: Mapping[str, int]) -> float:
        """Return :meth:`macs`, as the cost that a target is a fraction of."""
        return self.macs(kept)


@dataclass(frozen=True)
class LayerCost:
    """MACs and widths of one layer as functions of the widths of the groups."""

    per_pair: int  # MACs per (output channel, input channel), times `groups`; of a depthwise layer, MACs per channel
    groups: int
    # (outputs outside any group, name of the group of the others, outputs per channel)
    out: tuple[int, str | None, int | Fraction]
    reads: tuple[
        int, tuple[tuple[str, int | Fraction], ...]
    ]  # (inputs outside any group, ((group, positions per channel), ...))
    depthwise: bool
    across: tuple[str, int] | None = None  # (group, its size) to each channel of which the layer is applied

    @staticmethod
    def from_layer(
        name: str, module: nn.Module, macs: int, group_of: Mapping[str, ChannelGroup], groups: Sequence[ChannelGroup]
    ) -> "LayerCost":
        out_width, in_width, conv_groups = width(module, "out"), width(module, "in"), getattr(module, "groups", 1)
        group = group_of.get(name)
        out: tuple[int, str | None, int | Fraction] = (0, group.name, 1) if group else (out_width, None, 1)
        if group and name in group.outputs:
            covered = sum(map(len, group.outputs[name]))
            out = (out_width - covered, group.name, _ratio(covered, group.size))
        if is_depthwise(module):
            return LayerCost(macs // out_width, 1, out, (1, ()), True)
        reads = tuple(
            (g.name, _ratio(sum(map(len, p)), g.size))
            for g in groups
            for consumer, p in g.consumers
            if consumer == name
        )
        covered = sum(len(q) for g in groups for consumer, p in g.consumers if consumer == name for q in p)
        return LayerCost(
            macs * conv_groups // (out_width * in_width),
            conv_groups,
            out,
            (in_width - covered, reads),
            False,
            next(((g.name, g.size) for g in groups if name in g.across), None),
        )

    def macs(self, widths: Mapping[str, int]) -> int:
        inputs, outputs = self.channels(widths)
        if self.depthwise:
            return int(self.per_pair * outputs)
        total = int(self.per_pair * outputs * inputs // self.groups)
        return total if self.across is None else total * widths[self.across[0]] // self.across[1]

    def channels(self, widths: Mapping[str, int]) -> tuple[int | Fraction, int | Fraction]:
        """Return the numbers of input and output channels; those of a depthwise layer are equal."""
        outputs = self.out[0] + (widths[self.out[1]] * self.out[2] if self.out[1] else 0)
        if self.depthwise:
            return outputs, outputs
        return self.reads[0] + sum(widths[name] * positions for name, positions in self.reads[1]), outputs


def _ratio(positions: int, channels: int) -> int | Fraction:
    """Return the positions per channel: an integer if it is one, with which methods that try many widths compute faster."""
    return Fraction(positions, channels) if positions % channels else positions // channels
