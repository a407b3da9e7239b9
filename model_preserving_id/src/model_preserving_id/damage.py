"""What cutting one group alone does to the network's outputs, measured at a few widths and interpolated between them.

The pivot errors of two layers say nothing about which of them the network needs more; this does. No labels are used.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model_preserving_id.activations import Statistics, eval_mode
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.ranking import Ranking

FRACTIONS = (0.75, 0.5, 0.3, 0.1)  # of the channels: the widths that are measured
DAMAGE_INPUTS = 200  # pruning inputs that it is measured on
NOISE = 1e-12  # a share of energy, or a damage, below this is rounding


def measure_damage(
    folded: FoldedNetwork,
    rankings: Mapping[str, Ranking],
    statistics: Mapping[str, Statistics],
    pictures: Sequence[Tensor],
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, list[float]]:
    """{group: damage at every width 0 .. C}: mean squared change of the outputs over their mean square, T folded.

    pictures: a few batches of inputs; the network is measured ``len(fractions)`` times per group and left as it was.
    """
    whole = outputs_of(folded.model, pictures)
    scale = float(whole.square().mean())
    damage = {}
    for name, one in tqdm(rankings.items(), desc="damage per group", disable=None, leave=False):
        before = folded.kept.get(name, list(range(one.size)))
        points = {}
        for width in sorted({one.at_most(fraction * one.size) for fraction in fractions} - {one.size}):
            folded.shrink(name, one.kept(width), statistics[name])
            points[width] = float((outputs_of(folded.model, pictures) - whole).square().mean()) / scale
        folded.shrink(name, before, statistics[name] if len(before) < one.size else None)
        damage[name] = interpolate(points, one.frobenius**2)
    return damage


def interpolate(points: Mapping[int, float], energy: np.ndarray) -> list[float]:
    """Damage at every width from that at a few: straight lines between logarithms of damage and of ``energy`` (C + 1,).

    Beyond the measured widths it is proportional to the energy left out; it never falls as the width shrinks.
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
        beyond = min(0.0, at - x[0]) + max(0.0, at - x[-1])
        values.append(float(np.exp(np.interp(at, x, y) + beyond)))
    return values


@torch.no_grad()
def outputs_of(model, pictures: Iterable[Tensor]) -> Tensor:
    """The network's outputs (N, ...) in eval mode, on the CPU, float64."""
    device = next(model.parameters()).device
    with eval_mode(model):
        return torch.cat([model(batch.to(device)).double().cpu() for batch in pictures])


def first_inputs(inputs: Iterable[Tensor], count: int) -> list[Tensor]:
    """The first ``count`` inputs, in batches as they come."""
    chosen: list[Tensor] = []
    left = count
    for batch in inputs:
        chosen.append(batch[:left])
        left -= len(chosen[-1])
        if left <= 0:
            break
    return chosen
