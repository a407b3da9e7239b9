"""The paper as ``compare`` calls it: prune, share and encode a trained network into a file of a given size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.checkpoint import save_model
from common.methods import Method, Task
from common.training import TrainOptions
from deep_compression.network_file import read_network
from deep_compression.plan import PrunePlan, SharePlan
from deep_compression.pruning import Held, masks_by_global_density, prunable_weights, total_density
from deep_compression.settings import Encoding
from deep_compression.size_budget import density_for, size_at
from deep_compression.stages import ENCODED, Setting, encode, prune, share

BITS = (4, 5, 6, 8)  # of an index; the first with which no more than FULL of the weights must live
FULL = 0.6
EXCESS = 1.03  # what the first cut aims at; training changes the distribution of what is left, and the second cut trims
AIM = 0.995


def compress(task: Task) -> Path:
    """The encoded file, of [0.98, 1.00] times the wanted share of the baseline's bytes. What is finished is skipped.

    Labels are used twice, as in the paper: the weights that live are trained by the task's recipe, the centroids by Adam.
    Raises UserError for a share that no density reaches.
    """
    file = task.folder / "encode" / ENCODED
    if file.is_file() and (task.folder / "encode" / "metrics.json").is_file():
        return file
    setting = Setting(task.data, task.device, task.seed, latency=False)
    dense, wanted = read_network(task.baseline), task.target * task.baseline.stat().st_size
    plan = share_plan(dense, EXCESS * wanted)
    density = density_for(dense, plan, EXCESS * wanted)
    prune(task.baseline, task.folder / "prune", PrunePlan("global-density", (density,)), task.recipe, setting)
    trimmed = task.folder / "trimmed.safetensors"
    if not trimmed.is_file():
        _trim(task.folder / "prune" / "model.safetensors", trimmed, plan, AIM * wanted)
    share(trimmed, task.folder / "share", plan, centroid_training(task.recipe), setting)
    encode(task.folder / "share" / "model.safetensors", task.folder / "encode", Encoding(), setting)
    return file


def share_plan(dense: nn.Module, wanted: float) -> SharePlan:
    """How weights are shared in a file of so many bytes: with more bytes, more values and more of the weights."""
    plans = [SharePlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16") for bits in BITS]
    return next((plan for plan in plans[:-1] if size_at(dense, plan, FULL) >= wanted), plans[-1])


def centroid_training(recipe: TrainOptions) -> TrainOptions:
    """One epoch of Adam on the centroids; none where nothing is trained."""
    return replace(
        recipe, epochs=min(1, recipe.epochs), optimizer="adam", learning_rate=1e-3, weight_decay=0.0, warmup_epochs=0.0
    )


@torch.no_grad()
def _trim(pruned: Path, out: Path, plan: SharePlan, wanted: float) -> None:
    """Take the smallest of the living weights away until the file is as small as wanted."""
    model = read_network(pruned)
    density = min(density_for(model, plan, wanted), total_density(model))
    Held(model, masks_by_global_density(prunable_weights(model), density))
    save_model(out, model)


METHOD = Method("deep compression", compress, axis="bytes", trains=True, paper="Han et al. 2016")
