"""Sensitivity analysis (not in the paper): the change of the network's outputs when only one group is pruned.

It is measured at a few widths, without labels, and interpolated. Pivot errors, in contrast, are relative to each layer and
do not show which layer is more important to the network.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from common.outputs import first_output
from common.progress import track
from common.replay import Replay
from model_preserving_id.activations import GramStatistics, eval_mode
from model_preserving_id.channel_ranking import ChannelRanking
from model_preserving_id.folded import FoldedNetwork

FRACTIONS = (0.75, 0.5, 0.3, 0.1)  # measured widths, as fractions of the channels
SENSITIVITY_IMAGES = 200  # number of calibration images used
PART_NUMBERS = 8 * 3 * 224 * 224  # of the images whose feature maps are kept in memory: about 0.7 GB for ResNet-50
NOISE = 1e-12  # fractions of energy and sensitivities below this are rounding errors

States: TypeAlias = dict[str, dict[str, Tensor]]  # {layer: its parameters and buffers}


@torch.no_grad()
def measure_sensitivity(
    folded: FoldedNetwork,
    rankings: Mapping[str, ChannelRanking],
    statistics: Mapping[str, GramStatistics],
    images: Sequence[Tensor],
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, list[float]]:
    """Measure the sensitivity of every group at every width 0 .. C, with T folded: {group: sensitivities}.

    ``folded.sensitivity`` keeps the measured points. :mod:`common.sensitivity` measures networks without T.

    Sensitivity is the mean squared change of the outputs over their mean square.

    Args:
        images: A few batches. The network is run ``len(fractions)`` times per group, from the first layer on that reads it, and
            is not changed.
    """
    model, given = folded.model, {}
    readers = {name: [one.consumer for one in folded.consumer_inputs([name])] for name in rankings}
    folds: dict[str, dict[int, States]] = {}
    for name, one in rankings.items():
        before = folded.kept.get(name)
        given[name] = _read_states(model, readers[name])
        folds[name] = {}
        for width in sorted({one.at_most(fraction * one.size) for fraction in fractions} - {one.size}):
            folded.prune_group(name, one.kept(width), statistics[name])
            folds[name][width] = _read_states(model, readers[name])
        _write_states(model, given[name])
        folded.kept[name] = list(range(one.size)) if before is None else before
    changes = {name: dict.fromkeys(folds[name], 0.0) for name in rankings}
    energy = 0.0
    parts = [part for batch in images for part in batch.split(max(1, PART_NUMBERS // batch[0].numel()))]
    with eval_mode(model):
        replay = Replay(model, parts[0][:1].to(folded.device))
        for part in track(parts, "sensitivity, images"):
            part = part.to(folded.device)
            outputs = first_output(replay.record(part)).double()
            energy += float(outputs.square().sum())
            for name in track(rankings, "sensitivity per group"):
                for width, states in folds[name].items():
                    _write_states(model, states)
                    changed = first_output(replay.from_layers(part, readers[name])).double()
                    changes[name][width] += float((changed - outputs).square().sum())
                _write_states(model, given[name])
    sensitivity = {}
    for name, one in rankings.items():
        folded.sensitivity[name] = {width: change / energy for width, change in changes[name].items()}
        sensitivity[name] = interpolate(folded.sensitivity[name], one.frobenius**2)
    return sensitivity


def _read_states(model: nn.Module, layers: Sequence[str]) -> States:
    return {
        layer: {name: tensor.clone() for name, tensor in model.get_submodule(layer).state_dict().items()}
        for layer in layers
    }


def _write_states(model: nn.Module, states: States) -> None:
    for layer, state in states.items():
        model.get_submodule(layer).load_state_dict(state)


def interpolate(points: Mapping[int, float], energy: np.ndarray) -> list[float]:
    """Interpolate measured sensitivities to every width, linearly in the logarithms of sensitivity and ``energy`` (C + 1,).

    Outside the measured widths, sensitivity is proportional to the lost energy. It never decreases as the width decreases.
    """
    known = sorted((float(energy[k]), max(d, NOISE)) for k, d in points.items() if energy[k] > NOISE)
    if not known:
        return [0.0 if e <= NOISE else float(e) for e in energy]
    x = np.log([e for e, _ in known])
    y = np.maximum.accumulate(np.log([d for _, d in known]))
    values = []
    for e in energy:
        if e <= NOISE:
            values.append(0.0)
            continue
        at = np.log(e)
        outside = min(0.0, at - x[0]) + max(0.0, at - x[-1])
        values.append(float(np.exp(np.interp(at, x, y) + outside)))
    return values


@torch.no_grad()
def compute_outputs(model, images: Iterable[Tensor]) -> Tensor:
    """Return the network's first output (N, ...) in eval mode, float64, on the CPU."""
    device = next(model.parameters()).device
    with eval_mode(model):
        return torch.cat([first_output(model(batch.to(device))).double().cpu() for batch in images])


class WithoutFirst:
    """Batches without their first ``count`` images; they can be read several times."""

    def __init__(self, batches: Iterable[Tensor], count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Tensor]:
        left = self.count
        for batch in self.batches:
            rest = batch[left:]
            left = max(0, left - len(batch))
            if len(rest):
                yield rest
