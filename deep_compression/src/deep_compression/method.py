"""Deep Compression as methods of :mod:`common.methods`: prune and quantize a trained network to a target file size.

METHOD is the paper's (arXiv 1510.00149), with thresholds that are chosen for the target. EXTENDED has smaller codebooks and
shorter codes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from common.errors import UserError
from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions
from deep_compression.compression_recipe import EQUALLY_SPACED, PruningPlan, QuantizationPlan
from deep_compression.pruning import PruningMaskHook, prunable_weights, quality_for_density, total_density
from deep_compression.settings import SMALLEST_FILE, SUFFIX, EncodingOptions
from deep_compression.size_target import SizeSettings, compressed_size, find_density
from deep_compression.stages import open_network, prune, quantize, save_checkpoint, write_compressed

BITS = (4, 5, 6, 8)  # extended: candidate bits per weight; the first that needs at most FULL of the weights is used
FULL = 0.6
EXCESS = 1.03  # size after pruning, relative to the target; training changes the weights, then the network is trimmed
SMALLER = (
    "training after pruning made the file smaller than the target, and removing fewer weights is not possible any more"
)
SEARCH = 3000  # time of finding the density, in training steps of an example (ResNet-20)
AIM = 0.995  # size after trimming, relative to the target


@dataclass(frozen=True)
class Variant:
    """What the paper's and the extended method do differently.

    Attributes:
        size: Quantization, encoding and pruning rule, by which the density for the target is found.
        centroids: Training options of the centroids that differ from those of the stage's recipe.
    """

    size: SizeSettings
    centroids: Mapping[str, object]


def paper_variant(arch: str | None) -> Variant:
    """Return the paper's settings: one quality parameter for the thresholds of all layers; bits and index bits of tables 2 to 5."""
    plan = QuantizationPlan(fc_bits=6) if arch == "lenet300_100" else QuantizationPlan()
    encoding = EncodingOptions(index_bits=(4,)) if arch == "alexnet" else EncodingOptions()
    return Variant(SizeSettings(plan, encoding, "std"), {"optimizer": "sgd", "learning_rate": 1e-4})


def extended_variant(dense: nn.Module, wanted: float, excluded: tuple[str, ...] = ()) -> Variant:
    """Return equally spaced centroids in bfloat16, with bits per weight for a file of ``wanted`` bytes.

    Larger files allow more bits and more remaining weights. excluded: layers whose weights are left alone.
    """
    plans = [replace(EQUALLY_SPACED, conv_bits=bits, fc_bits=bits) for bits in BITS]
    sizes = [SizeSettings(plan, SMALLEST_FILE, "global-density", excluded) for plan in plans]
    size = next((size for size in sizes[:-1] if compressed_size(dense, size, FULL) >= wanted), sizes[-1])
    return Variant(size, {"optimizer": "adam", "learning_rate": 1e-3})


def decide_paper(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Compress with the paper's method so that the file has 0.98 to 1.00 times the target's bytes. Raises UserError."""
    variant, excluded = paper_variant(start.arch), _excluded_layers(start)
    size = replace(variant.size, excluded=excluded)
    return _decide(replace(variant, size=size), start, target, stage)


def decide_extended(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Compress with the extended method so that the file has 0.98 to 1.00 times the target's bytes. Raises UserError."""
    assert target is not None
    wanted = EXCESS * (target.fraction * start.bytes)
    return _decide(extended_variant(start.model, wanted, _excluded_layers(start)), start, target, stage)


def _excluded_layers(start: TrainedModel) -> tuple[str, ...]:
    """Return the layers whose weights are left alone. Raises UserError if these are all."""
    excluded = start.limits.layers
    if not prunable_weights(start.model, excluded):
        raise UserError(f"{start.name}: the limits exclude the weights of all layers; exclude fewer of them")
    return excluded


def _decide(variant: Variant, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Prune, retrain, trim and quantize.

    Labels are used twice, as in the paper: the remaining weights are trained with the stage's recipe, then the centroids.

    Raises:
        UserError: If no density reaches the target.
    """
    assert target is not None and stage.recipe is not None
    excluded = start.limits.layers
    if not prunable_weights(start.model, excluded):
        raise UserError(f"--target-bytes {target.fraction:g}: the limits leave all layers alone; exclude fewer of them")
    density = find_density(start.model, variant.size, target, start.bytes, EXCESS)
    plan = pruning_plan(variant.size.rule, prunable_weights(start.model, excluded), density)
    pruned = prune(start, stage, plan, stage.recipe)
    trimmed = stage.folder / "trimmed.safetensors"
    if stage.force or not trimmed.is_file():
        model = copy.deepcopy(pruned.model)
        density = find_density(model, variant.size, target, start.bytes, AIM, allow_smaller=True)
        PruningMaskHook(model, variant.size.masks(prunable_weights(model, excluded), density))
        save_checkpoint(trimmed, model, start)
    training = centroid_training(stage.recipe, variant.centroids)
    shared = quantize(open_network(trimmed, start), stage, variant.size.plan, training)
    bits = variant.size.plan.conv_bits
    report = {"density": total_density(shared.model), "bits": bits}
    return Decision(model=shared.model, report=report, smaller=SMALLER)


def pruning_plan(rule: str, weights: Mapping[str, Tensor], density: float) -> PruningPlan:
    """Return the plan of one round that keeps a fraction of all weights, by the rule "std" or "global-density"."""
    return PruningPlan(rule, (quality_for_density(weights, density) if rule == "std" else density,))


def centroid_training(recipe: TrainOptions, options: Mapping[str, object]) -> TrainOptions:
    """Return one epoch of training for the centroids, or no epochs if the recipe has none."""
    fixed = {"epochs": min(1, recipe.epochs), "weight_decay": 0.0, "warmup_epochs": 0.0}
    return replace(recipe, **fixed, **options)  # type: ignore[arg-type]


def write_dcz(path: Path, network: nn.Module, start: TrainedModel, encoding: EncodingOptions | None = None) -> None:
    """Write the compressed file, by default with the paper's encoding of the network."""
    write_compressed(path, network, encoding or paper_variant(start.arch).size.encoding, start.factory)


def examples(recipe: TrainOptions, images: int, layers: int) -> float:
    """Return the examples of retraining the weights, then the centroids, and about the time of searching the density."""
    return (recipe.epochs + min(1, recipe.epochs)) * images + SEARCH


METHOD = Method(
    "Deep Compression (paper)",
    decide_paper,
    axis="bytes",
    save=write_dcz,
    suffix=SUFFIX,
    trains=True,
    paper="Han et al. 2016",
    note="adapted to a target size: the thresholds' quality parameter is chosen for it, and a second, small step of pruning meets it",
    variant="paper",
    examples=examples,
)
EXTENDED = replace(
    METHOD,
    label="Deep Compression (extended)",
    decide=decide_extended,
    save=partial(write_dcz, encoding=SMALLEST_FILE),
    note="differs from the paper: equally spaced centroids in bfloat16, trained with Adam; one threshold for all layers; the bits per"
    " weight and position are chosen for the size",
    variant="extended",
    default=False,
)
