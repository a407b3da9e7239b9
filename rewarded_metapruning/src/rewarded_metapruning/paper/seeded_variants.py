"""Run the paper's and the extended variant, as ``compare`` does before fine-tuning, and the unpruned network for reference.

The unpruned network is trained with the same recipe as the paper's winner. One result file per seed; finished seeds are skipped.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_json
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.methods import Method
from common.pipeline import compress
from common.runs import MODEL, Stage, describe_environment
from common.target import Target
from common.trained_model import TrainedModel, read_trained_model
from common.training import TrainOptions
from rewarded_metapruning.final_training import Variant, train_variant
from rewarded_metapruning.method import EXTENDED, METHOD, PAPER_SETTINGS
from rewarded_metapruning.paper.settings import CompareVariants
from rewarded_metapruning.pruning_net_training import log
from rewarded_metapruning.settings import PACKAGE, UNPRUNED
from rewarded_metapruning.stage_inputs import build_space, load_images

METHODS = (METHOD, EXTENDED)


def run_seeds(settings: CompareVariants, command: str) -> None:
    """Write a result file for each seed that has none. command: the command line, for the result files."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    data = load_images(settings.data, settings.arch)
    name = data.name.rsplit("/", 1)[-1]  # last part of folder:PATH
    for seed in settings.seeds:
        label = f"{settings.arch}-{name}-seed{seed}"
        file = Path(settings.results) / f"variants-{label}.json"
        if file.is_file() and not settings.force:
            print(f"{file} already exists")
            continue
        record = run_seed(settings, data, seed, device, Path(settings.out) / label)
        write_json(file, {"command": command, **record, "environment": describe_environment(device)})
        print(f"{file}: " + ", ".join(f"{row['variant']} {row['top1']:.2f} %" for row in record["rows"]), flush=True)


def run_seed(
    settings: CompareVariants, data: DataBundle, seed: int, device: torch.device, folder: Path
) -> dict[str, Any]:
    """Train the unpruned network, run both variants with one seed and return the content of the result file."""
    space, workers = build_space(settings.arch, data), settings.data.workers
    recipe = PAPER_SETTINGS.final_recipe(data.name) or TrainOptions()
    recipe = replace(recipe, amp=settings.precision.amp, evaluate_every=max(recipe.epochs, 1))
    options = {"arch": space.arch, "dataset": data.name, "seed": seed, **recipe.identity()}
    parent = Stage(folder, PACKAGE, {}, seed=seed, device=device, log=log, force=settings.force, recipe=recipe)
    unpruned = Variant(UNPRUNED, space.unpruned)
    dense, cpu = _timed(
        folder / UNPRUNED,
        lambda: train_variant(unpruned, parent, options, space, data, recipe, workers=workers, latency=False),
    )
    row = _row(UNPRUNED, "scratch", dense, cpu)
    start = read_trained_model(folder / UNPRUNED / MODEL, data, name=space.arch, device=device, workers=workers)
    rows = [row, *(_run(method, start, parent, options, settings.target_macs) for method in METHODS)]
    about = {key: options[key] for key in ("arch", "dataset", "seed")} | {"target": settings.target_macs}
    return {**about, "final": recipe.identity(), "rows": rows, "data_fingerprint": data.fingerprint}


def _run(method: Method, start: TrainedModel, parent: Stage, options: dict[str, Any], target: float) -> dict[str, Any]:
    """Run a variant, without fine-tuning, and return its row."""

    def run() -> dict[str, Any]:
        stage = parent.substage(method.variant, options | {"target": target}, fingerprint=start.data.fingerprint)
        return compress(method, start, Target(target), stage, latency=False)

    metrics, cpu = _timed(parent.folder / method.variant, run)
    row = _row(method.variant, method.weights, metrics, cpu)
    return row | {"label": method.label, "note": method.note, "nev": metrics["nev"]}


def _timed(folder: Path, run: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float | None]:
    """Return the metrics of a run and its CPU time in seconds; None if the run has been resumed."""
    new, cpu = not folder.exists(), time.process_time()
    metrics = run()
    return metrics, round(time.process_time() - cpu, 1) if new else None


def _row(variant: str, weights: str, metrics: dict[str, Any], cpu: float | None) -> dict[str, Any]:
    measured = {key: metrics["compressed"][key] for key in ("top1", "loss", "macs", "params")}
    return {"variant": variant, "weights": weights, **measured, "cpu_seconds": cpu}
