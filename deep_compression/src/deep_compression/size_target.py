"""Search for the density whose compressed file has a target size, by writing temporary files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.target import Target
from deep_compression.compression_recipe import QuantizationPlan
from deep_compression.pruning import (
    Masks,
    PruningMaskHook,
    masks_by_global_density,
    masks_by_std,
    prunable_weights,
    quality_for_density,
    total_density,
)
from deep_compression.settings import EncodingOptions
from deep_compression.sharing import cluster_counts, create_clusterer, round_unshared, share_network
from deep_compression.stages import write_compressed

STEPS = 20
ENOUGH = 0.99  # smallest accepted fraction of the target size


@dataclass(frozen=True)
class SizeSettings:
    """Settings on which the size of a compressed file depends, in addition to the density.

    Attributes:
        rule: Pruning rule: "std", one quality parameter for all layers, or "global-density", one threshold for all layers.
        excluded: Names of layers whose weights are neither pruned nor quantized; densities do not count them.
    """

    plan: QuantizationPlan
    encoding: EncodingOptions
    rule: str
    excluded: tuple[str, ...] = ()

    def masks(self, weights: Mapping[str, Tensor], density: float) -> Masks:
        """Select a fraction of all weights together by the rule."""
        if self.rule == "std":
            return masks_by_std(weights, quality_for_density(weights, density))
        return masks_by_global_density(weights, density)


@torch.no_grad()
def compressed_size(model: nn.Module, settings: SizeSettings, density: float) -> int:
    """Return the bytes of the network's compressed file at a density of all weights together, without training."""
    model, plan = copy.deepcopy(model), settings.plan
    PruningMaskHook(model, settings.masks(prunable_weights(model, settings.excluded), density))
    bits = {"conv": plan.conv_bits, "fc": plan.fc_bits}
    clusters = cluster_counts(model, bits, plan.layer_bits, settings.excluded)
    cluster = create_clusterer(plan.method, plan.centroid_init, 0, plan.lloyd_steps)
    shared = share_network(model, clusters, cluster)
    parameters = dict(model.named_parameters())
    for name, weights in shared.items():
        parameters[name].copy_(weights.to_dense())
    if plan.rounding != "none":
        round_unshared(model, shared, getattr(torch, plan.rounding), settings.excluded)
    with tempfile.TemporaryDirectory() as folder:
        return write_compressed(Path(folder) / "trial.dcz", model, settings.encoding).bytes


def find_density(
    model: nn.Module,
    settings: SizeSettings,
    target: Target,
    dense_bytes: int,
    factor: float = 1.0,
    allow_smaller: bool = False,
) -> float:
    """Find a density whose file has ``factor`` times the target's bytes, or at most 1 % less.

    The size is nearly linear in the density, so the next density is interpolated between the two nearest known ones (every
    third one bisects).

    Args:
        allow_smaller: Whether to return the density of the given network if its file is smaller than that.

    Raises:
        UserError: If no density is within 2 % of the target; the message has the nearest fractions of ``dense_bytes``.
    """
    wanted, remaining = factor * (target.fraction * dense_bytes), total_density(model, settings.excluded)
    low, high = (0.0, compressed_size(model, settings, 0.0)), (remaining, compressed_size(model, settings, remaining))
    if high[1] <= wanted:
        if allow_smaller:
            return remaining
        low = high
    for step in range(STEPS):
        if not low[1] < ENOUGH * wanted or low[1] > wanted or high[1] <= wanted:
            break
        aim = (ENOUGH + 1) / 2 * wanted
        slope = (high[0] - low[0]) / (high[1] - low[1])
        density = low[0] + slope * (aim - low[1]) if step % 3 < 2 else (low[0] + high[0]) / 2
        size = compressed_size(model, settings, density)
        low, high = ((density, size), high) if size <= wanted else (low, (density, size))
    if not target.is_met_by(low[1] / (factor * dense_bytes)):
        near = {low[1]} if low[1] > wanted else {low[1], high[1]}
        target.raise_unreachable(
            f"no density at {settings.plan.conv_bits} bits per weight", [size / dense_bytes for size in sorted(near)]
        )
    return low[0]
