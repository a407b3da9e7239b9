"""Sensitivity analysis (not in the paper): the change of the network's outputs when only one group is pruned.

It is measured at a few widths, without labels, and interpolated. Pivot errors, in contrast, are relative to each layer and
do not show which layer is more important to the network.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.outputs import first_output
from common.progress import track
from model_preserving_id.activations import GramStatistics, eval_mode
from model_preserving_id.channel_ranking import ChannelRanking
from model_preserving_id.folded import FoldedNetwork

FRACTIONS = (0.75, 0.5, 0.3, 0.1)  # measured widths, as fractions of the channels
SENSITIVITY_IMAGES = 200  # number of calibration images used
NOISE = 1e-12  # fractions of energy and sensitivities below this are rounding errors


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
        images: A few batches. The network is run ``len(fractions)`` times per group and is not changed.
    """
    outputs = compute_outputs(folded.model, images)
    scale = float(outputs.square().mean())
    sensitivity = {}
    for name, one in track(rankings.items(), "sensitivity per group"):
        before = folded.kept.get(name, list(range(one.size)))
        points = {}
        for width in sorted({one.at_most(fraction * one.size) for fraction in fractions} - {one.size}):
            folded.prune_group(name, one.kept(width), statistics[name])
            points[width] = float((compute_outputs(folded.model, images) - outputs).square().mean()) / scale
        folded.prune_group(name, before, statistics[name] if len(before) < one.size else None)
        folded.sensitivity[name] = points
        sensitivity[name] = interpolate(points, one.frobenius**2)
    return sensitivity


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


def take_images(batches: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return the first ``count`` images, in the given batches."""
    chosen: list[Tensor] = []
    left = count
    for batch in batches:
        chosen.append(batch[:left])
        left -= len(chosen[-1])
        if left <= 0:
            break
    return chosen
