"""The paper on a small trained network, for ``run_digits.sh``: from a baseline checkpoint to a compressed file."""

from __future__ import annotations

from pathlib import Path

import torch

from common.data import DataBundle
from common.training import TrainOptions
from deep_compression.plan import EncodePlan, PrunePlan, Recipe, SharePlan
from deep_compression.stages import Setting, compress

RECIPE = Recipe(
    PrunePlan("global-density", (0.2,)),
    TrainOptions(epochs=2, batch_size=64, learning_rate=0.05, weight_decay=5e-4, nesterov=True),
    SharePlan(conv_bits=4, fc_bits=4, lloyd_steps=0, rounding="bfloat16"),
    TrainOptions(epochs=1, batch_size=64, learning_rate=1e-3, weight_decay=0.0, optimizer="adam"),
    EncodePlan(),
)


def compress_digits(
    baseline: Path | str,
    out: Path | str,
    data: DataBundle,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    recipe: Recipe = RECIPE,
) -> list[Path]:
    """Prune, share and encode a checkpoint of ours, with brief training: [the run folder of the encoded network]."""
    setting = Setting(data, torch.device(device), seed, label="deep compression, 20 % of the weights, 4 bits")
    return [compress(baseline, out, recipe, setting)]
