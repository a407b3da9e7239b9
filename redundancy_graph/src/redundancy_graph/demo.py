"""The paper on a small trained network, for ``run_digits.sh``: from a baseline checkpoint to a pruned, fine-tuned network."""

from dataclasses import asdict
from pathlib import Path

import torch

from common.checkpoint import read_checkpoint
from common.data import DataBundle
from common.runs import open_run
from common.training import TrainOptions
from redundancy_graph.budget import Settings
from redundancy_graph.generate import generate
from redundancy_graph.options import PACKAGE, label_of
from redundancy_graph.prune import Reference, fine_tune, read_cut
from redundancy_graph.subject import open_subject

KEEP = 0.5  # of the MACs
RECIPE = TrainOptions(epochs=3, batch_size=64, learning_rate=0.05, weight_decay=5e-4, nesterov=True)


def compress_digits(
    baseline: Path | str,
    out: Path | str,
    data: DataBundle,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    target_macs: float = KEEP,
    recipe: TrainOptions = RECIPE,
    pictures: int = 100,
) -> list[Path]:
    """Prune a checkpoint of ours to a share of its MACs and fine-tune it briefly: [the run folder], under ``out``.

    What is finished is skipped, what was interrupted goes on. Raises UserError for a checkpoint that names no architecture.
    """
    out = Path(out)
    header, _ = read_checkpoint(baseline)
    subject = open_subject(header["arch"], baseline, data)
    settings = Settings(mini_batch=min(pictures, len(data.train)), seed=seed)
    label = label_of(subject.name, None, target_macs)
    files = generate(
        subject, {label: None}, settings, out / "prune-info", device=device, target_macs=target_macs, say=_silent
    )
    kept = read_cut(subject, files[label], target_macs=target_macs)
    options = {"arch": subject.arch, "dataset": data.name, "seed": seed, "target_macs": target_macs}
    options |= {"weights_digest": subject.digest, **asdict(settings), **asdict(recipe)}
    run = open_run(out / label, PACKAGE, options, device=device, fingerprint=data.fingerprint)
    details = {"label": f"redundancy graph, {target_macs:g} of the MACs"}
    fine_tune(run, Reference(subject, torch.device(device)), kept, recipe, seed=seed, say=_silent, extra=details)
    return [run.folder]


def _silent(line: str) -> None:
    """The demo prints one table for all papers."""
