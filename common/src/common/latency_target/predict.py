"""Predict the time of a network from the widths of its channel groups: the times of its layers, and what is between them.

seconds = a + b * elements + c * sum of the layers' times, where ``elements`` counts the outputs of all layers: batch norms, activations
and additions read and write them. a, b and c are fitted to whole networks of equal widths that were timed next to the dense one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from common.channels import ChannelGroup, keep_channels, top_channels
from common.cost.calls import Call, trace_calls
from common.cost.widths import LayerCost, WidthCost
from common.latency_target.table import Interpolation, LatencyTable, LayerForm, layer_form
from common.limits import Limits
from common.measure import measure_latency
from common.progress import activity
from common.runtimes import in_runtime
from common.timing import Timing

FRACTIONS = (0.85, 0.7, 0.55, 0.4, 0.25)  # widths of the networks to which the prediction is fitted
SECONDS = 10.0  # for timing them
DENSE = "dense"


@dataclass(frozen=True)
class _Layer:
    cost: LayerCost
    seconds: Interpolation | None  # None: proportional to the MACs
    elements: float  # outputs per output channel, in all calls
    calls: int


@dataclass
class WidthLatency:
    """Predicted seconds of a network as a function of the widths of its channel groups.

    Attributes:
        sizes: Number of channels of each group.
        weights: a, b and c.
        dense: Predicted seconds of the unpruned network.
        error: Largest error of the predicted fraction of the dense time at the networks that were timed, after the fit.
        timed: Number of these networks.
    """

    layers: Sequence[_Layer]
    sizes: Mapping[str, int]
    other_seconds: float = 0.0  # per MAC, of layers that the table has no times of
    weights: tuple[float, float, float] = (0.0, 0.0, 1.0)
    dense: float = field(init=False, default=0.0)
    error: float = 0.0
    timed: int = 0

    def __post_init__(self) -> None:
        self.dense = self.of({})

    def of(self, kept: Mapping[str, int]) -> float:
        """Return the seconds if group ``name`` keeps ``kept[name]`` channels; groups not listed keep all."""
        return float(np.dot(self.weights, self.features(kept)))

    @property
    def fitted(self) -> dict[str, Any]:
        """What the fit has found, for ``fitted`` of :func:`predict_latency`."""
        return {"weights": list(self.weights), "error": self.error, "timed": self.timed}

    def features(self, kept: Mapping[str, int]) -> tuple[float, float, float]:
        """Return 1, the millions of elements, and the sum of the layers' seconds."""
        widths = {**self.sizes, **kept}
        elements = seconds = 0.0
        for layer in self.layers:
            inputs, outputs = map(float, layer.cost.channels(widths))
            elements += layer.elements * outputs
            if layer.seconds is None:
                seconds += self.other_seconds * layer.cost.macs(widths)
            else:
                seconds += layer.calls * layer.seconds(inputs, outputs)
        return 1.0, elements / 1e6, seconds

    def fit(self, networks: Sequence[Mapping[str, int]], seconds: Sequence[float]) -> None:
        """Fit a, b and c, which are not negative, to timed networks, the dense one first; relative errors are minimized."""
        from scipy.optimize import nnls

        features = np.array([self.features(kept) for kept in networks])
        times = np.array(seconds)
        weights, _ = nnls(features / times[:, None], np.ones(len(times)))
        self.weights = tuple(map(float, weights))  # type: ignore[assignment]
        self.dense = self.of({})
        predicted = features @ weights
        self.timed = len(times)
        self.error = float(np.abs(predicted / predicted[0] - times / times[0]).max())


def predict_latency(
    model: nn.Module,
    input_shape: Sequence[int],
    groups: Sequence[ChannelGroup],
    table: LatencyTable,
    limits: Limits | None = None,
    fitted: Mapping[str, Any] | None = None,
) -> WidthLatency:
    """Measure what the table lacks, time a few whole networks, and return the prediction for this network.

    Args:
        input_shape: Shape of one example.
        limits: On the widths of the timed networks, such as multiples of eight.
        fitted: :attr:`WidthLatency.fitted` of an earlier prediction for the same network, in place of timing networks.
    """
    cost = WidthCost(model, input_shape, groups)
    calls: dict[str, list[Call]] = {}
    for call in trace_calls(model, input_shape):
        if call.name in cost.by_layer:
            calls.setdefault(call.name, []).append(call)
    forms: dict[str, LayerForm] = {
        name: form for name, (first, *_) in calls.items() if (form := layer_form(first)) is not None
    }
    full = {name: tuple(map(int, cost.by_layer[name].channels(cost.sizes))) for name in forms}
    wanted: dict[LayerForm, tuple[int, int]] = {}
    for name, form in forms.items():
        inputs, outputs = full[name]
        before = wanted.get(form, (0, 0))
        wanted[form] = (max(before[0], inputs), max(before[1], outputs))
    table.measure(wanted)
    layers = []
    for name, of_layer in calls.items():
        form = forms.get(name)
        channels = float(cost.by_layer[name].channels(cost.sizes)[1])
        per_channel = table.batch_size * sum(call.outputs for call in of_layer) / max(channels, 1.0)
        found = None if form is None else table.lookup(form, wanted[form])
        layers.append(_Layer(cost.by_layer[name], found, per_channel, len(of_layer)))
    known = [layer for layer in layers if layer.seconds is not None]
    macs = sum(layer.cost.macs(cost.sizes) for layer in known)
    total = sum(layer.calls * layer.seconds(*map(float, layer.cost.channels(cost.sizes))) for layer in known)  # type: ignore[misc]
    predicted = WidthLatency(layers, cost.sizes, total / macs if macs else 1e-10)
    if fitted is not None:
        weights, error, timed = tuple(fitted["weights"]), fitted["error"], fitted["timed"]
        return replace(predicted, weights=weights, error=error, timed=timed)
    usable = [group for group in groups if (limits or Limits()).allows(group)]
    networks: list[dict[str, int]] = [{}]
    for fraction in FRACTIONS:
        widths = {group.name: (limits or Limits()).at_least(group, round(fraction * group.size)) for group in usable}
        if widths not in networks:
            networks.append(widths)
    with activity("whole networks are timed"):
        timed = time_networks(model, input_shape, groups, networks, table)
    predicted.fit(networks, [timed.seconds(str(i)) for i in range(len(networks))])
    return predicted


def time_networks(
    model: nn.Module,
    input_shape: Sequence[int],
    groups: Iterable[ChannelGroup],
    networks: Sequence[Mapping[str, int]],
    table: LatencyTable,
    seconds: float = SECONDS,
) -> Timing:
    """Time networks of the given widths against the first one; their names are "0", "1", ..."""
    example, by_name = torch.zeros(1, *input_shape), {group.name: group for group in groups}
    models = {}
    for i, widths in enumerate(networks):
        kept = {
            name: top_channels([0] * by_name[name].size, count, conv_groups=by_name[name].conv_groups)
            for name, count in widths.items()
            if count < by_name[name].size
        }
        models[str(i)] = in_runtime(table.runtime, keep_channels(model, example, kept).eval(), input_shape)
    timed = measure_latency(models, input_shape, device=table.device, batch_sizes=[table.batch_size], seconds=seconds)
    return timed.timings[str(table.batch_size)]
