"""The paper as a method: prune and share a trained network so that its encoded file has a given size."""

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
from deep_compression.plan import PrunePlan, SharePlan
from deep_compression.pruning import Held, masks_by_global_density, prunable_weights, total_density
from deep_compression.settings import SUFFIX, Encoding
from deep_compression.size_target import density_for, size_at
from deep_compression.stages import opened, prune, save, share, write_file

BITS = (4, 5, 6, 8)  # of an index; the first with which no more than FULL of the weights must remain
FULL = 0.6
EXCESS = 1.03  # times the target, for pruning; training changes the distribution of what is left, and trimming follows
AIM = 0.995  # times the target, for trimming


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """The network whose encoded file has [0.98, 1.00] of the target's bytes. Raises UserError if no density reaches them.

    Labels are used twice, as in the paper: the remaining weights are trained by the stage's recipe, the centroids by Adam.
    """
    assert target is not None and stage.recipe is not None
    plan = share_plan(start.model, EXCESS * (target.fraction * start.bytes))
    density = density_for(start.model, plan, target, start.bytes, EXCESS)
    pruned = prune(start, stage, PrunePlan("global-density", (density,)), stage.recipe)
    trimmed = stage.folder / "trimmed.safetensors"
    if stage.force or not trimmed.is_file():
        model, density = copy.deepcopy(pruned.model), density_for(pruned.model, plan, target, start.bytes, AIM)
        density = min(density, total_density(model))
        Held(model, masks_by_global_density(prunable_weights(model), density))  # the smallest weights go
        save(trimmed, model, start)
    shared = share(opened(trimmed, start), stage, plan, centroid_training(stage.recipe))
    return Decision(model=shared.model, report={"density": total_density(shared.model), "bits": plan.conv_bits})


def share_plan(dense: nn.Module, wanted: float) -> SharePlan:
    """How weights are shared in a file of so many bytes: with more bytes, more values and more of the weights."""
    plans = [SharePlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16") for bits in BITS]
    return next((plan for plan in plans[:-1] if size_at(dense, plan, FULL) >= wanted), plans[-1])


def centroid_training(recipe: TrainOptions) -> TrainOptions:
    """One epoch of Adam on the centroids; none where nothing is trained."""
    return replace(
        recipe, epochs=min(1, recipe.epochs), optimizer="adam", learning_rate=1e-3, weight_decay=0.0, warmup_epochs=0.0
    )


def write_dcz(path: Path, network: nn.Module, start: TrainedModel) -> None:
    """Write the compressed file."""
    write_file(path, network, Encoding(), start.factory)


METHOD = Method(
    "deep compression", decide, axis="bytes", save=write_dcz, suffix=SUFFIX, trains=True, paper="Han et al. 2016"
)
