"""Which density gives a file of a wanted size: the file is written, and thrown away, for one density after the other."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from common.target import Target
from deep_compression.compressed import save_compressed
from deep_compression.plan import SharePlan
from deep_compression.pruning import Held, masks_by_global_density, prunable_weights, total_density
from deep_compression.sharing import clusterer, clusters_for, round_rest, share_network

STEPS = 20
ENOUGH = 0.99  # of the wanted size


@torch.no_grad()
def size_at(model: nn.Module, plan: SharePlan, density: float) -> int:
    """Bytes of the network's file at a density of all its weights together, without any training."""
    model = copy.deepcopy(model)
    Held(model, masks_by_global_density(prunable_weights(model), density))
    clusters = clusters_for(model, {"conv": plan.conv_bits, "fc": plan.fc_bits}, plan.layer_bits)
    shared = share_network(model, clusters, clusterer(plan.method, plan.init, 0, plan.lloyd_steps))
    parameters = dict(model.named_parameters())
    for name, codes in shared.items():
        parameters[name].copy_(codes.dense())
    if plan.rounding != "none":
        round_rest(model, shared, getattr(torch, plan.rounding))
    with tempfile.TemporaryDirectory() as folder:
        return save_compressed(Path(folder) / "trial.dcz", model).bytes


def density_for(model: nn.Module, plan: SharePlan, target: Target, dense_bytes: int, factor: float = 1.0) -> float:
    """A density whose file has ``factor`` times the target's bytes, at most 1 % less.

    The size grows nearly linearly with the density, so the next one tried lies on the line through the two that are known
    (every third one halfway).

    Raises:
        UserError: With the nearest fractions of ``dense_bytes``, where no density comes within 2 %.
    """
    wanted, remaining = factor * (target.fraction * dense_bytes), total_density(model)
    low, high = (0.0, size_at(model, plan, 0.0)), (remaining, size_at(model, plan, remaining))
    if high[1] <= wanted:
        low = high
    for step in range(STEPS):
        if not low[1] < ENOUGH * wanted or low[1] > wanted or high[1] <= wanted:
            break
        aim = (ENOUGH + 1) / 2 * wanted
        slope = (high[0] - low[0]) / (high[1] - low[1])
        density = low[0] + slope * (aim - low[1]) if step % 3 < 2 else (low[0] + high[0]) / 2
        size = size_at(model, plan, density)
        low, high = ((density, size), high) if size <= wanted else (low, (density, size))
    if not target.met(low[1] / (factor * dense_bytes)):
        near = {low[1]} if low[1] > wanted else {low[1], high[1]}
        target.refuse(f"no density at {plan.conv_bits} bits per weight", [size / dense_bytes for size in sorted(near)])
    return low[0]
