"""Deep Compression as a method of :mod:`common.methods`: prune and quantize a trained network to a target file size."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from torch import nn

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions
from deep_compression.compression_recipe import PruningPlan, QuantizationPlan
from deep_compression.pruning import PruningMaskHook, masks_by_global_density, prunable_weights, total_density
from deep_compression.settings import SUFFIX, EncodingOptions
from deep_compression.size_target import compressed_size, find_density
from deep_compression.stages import open_network, prune, quantize, save_checkpoint, write_compressed

BITS = (4, 5, 6, 8)  # candidate bits per weight; the first that needs at most FULL of the weights is used
FULL = 0.6
EXCESS = 1.03  # size after pruning, relative to the target; training changes the weights, then the network is trimmed
AIM = 0.995  # size after trimming, relative to the target


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Compress a network so that its encoded file has 0.98 to 1.00 times the target's bytes.

    Labels are used twice, as in the paper: the remaining weights are trained with the stage's recipe, then the centroids
    with Adam.

    Raises:
        UserError: If no density reaches the target.
    """
    assert target is not None and stage.recipe is not None
    plan = quantization_plan(start.model, EXCESS * (target.fraction * start.bytes))
    density = find_density(start.model, plan, target, start.bytes, EXCESS)
    pruned = prune(start, stage, PruningPlan("global-density", (density,)), stage.recipe)
    trimmed = stage.folder / "trimmed.safetensors"
    if stage.force or not trimmed.is_file():
        model, density = copy.deepcopy(pruned.model), find_density(pruned.model, plan, target, start.bytes, AIM)
        density = min(density, total_density(model))
        PruningMaskHook(model, masks_by_global_density(prunable_weights(model), density))
        save_checkpoint(trimmed, model, start)
    shared = quantize(open_network(trimmed, start), stage, plan, centroid_training(stage.recipe))
    return Decision(model=shared.model, report={"density": total_density(shared.model), "bits": plan.conv_bits})


def quantization_plan(dense: nn.Module, wanted: float) -> QuantizationPlan:
    """Choose the bits per weight for a file of ``wanted`` bytes; larger files allow more bits and more remaining weights."""
    plans = [QuantizationPlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16") for bits in BITS]
    return next((plan for plan in plans[:-1] if compressed_size(dense, plan, FULL) >= wanted), plans[-1])


def centroid_training(recipe: TrainOptions) -> TrainOptions:
    """Return one epoch of Adam for the centroids, or no epochs if the recipe has none."""
    return replace(
        recipe, epochs=min(1, recipe.epochs), optimizer="adam", learning_rate=1e-3, weight_decay=0.0, warmup_epochs=0.0
    )


def write_dcz(path: Path, network: nn.Module, start: TrainedModel) -> None:
    """Write the compressed file."""
    write_compressed(path, network, EncodingOptions(), start.factory)


METHOD = Method(
    "deep compression", decide, axis="bytes", save=write_dcz, suffix=SUFFIX, trains=True, paper="Han et al. 2016"
)
