"""The paper on a small trained network, for ``run_digits.sh``: from a baseline checkpoint to a pruned network, no training."""

from pathlib import Path

import torch

from common.checkpoint import load_model
from common.data import DataBundle
from common.trained import Trained, normalized_as
from model_preserving_id.command import PruneSettings, label_of, open_prune_run, prune_into

SETTINGS = PruneSettings(method="budget", target_macs=0.5, compensation="weights", prune_batch_size=200)


def compress_digits(
    baseline: Path | str,
    out: Path | str,
    data: DataBundle,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    settings: PruneSettings = SETTINGS,
) -> list[Path]:
    """Prune a checkpoint of ours to half of its MACs without labels and without training: [the run folder], under ``out``.

    What is finished is skipped. Raises UserError for a checkpoint that names no architecture.
    """
    del seed  # nothing is drawn but the pruning pictures, whose seed is the paper's
    model = load_model(baseline)
    trained = Trained(model, normalized_as(model, data), model.architecture["arch"], Path(baseline), None, device)
    run = open_prune_run(Path(out) / label_of(settings), trained, settings)
    label = f"model-preserving ID, {settings.target_macs:g} of the MACs, no training"
    prune_into(run, trained, settings, details={"label": label}, say=_silent)
    return [run.folder]


def _silent(line: str) -> None:
    """The demo prints one table for all papers."""
