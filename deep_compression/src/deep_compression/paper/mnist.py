"""Compression of the LeNets on MNIST (tables 1 to 3 of the paper): ``run_mnist.sh``.

For each network and seed, a dense network is trained, then pruned, quantized and encoded with the paper's densities and bits
(settings `paper`). From that pruned network, two smaller ones are computed: with the settings that were selected on held-out
training images (`validated`, see select_settings.py), and for the target compression ratio (`smallest`). Finished stages are
skipped and interrupted ones resume. Errors are those of the last epoch on the test images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.runs import read_json
from common.settings import command
from common.train import train_baseline
from deep_compression.paper.mnist_recipes import HOLDOUT, MNIST_RECIPES, MnistRecipe, scaled_epochs
from deep_compression.paper.settings import Mnist
from deep_compression.settings import PACKAGE

if TYPE_CHECKING:
    from common.data import DataBundle
    from common.runs import Stage
    from common.trained_model import TrainedModel
    from common.training import TrainOptions


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("run_mnist.sh", argv)
    return command(Mnist, lambda settings: run_experiments(settings, line), argv, "run_mnist.sh", PACKAGE)


def run_experiments(options: Mnist, line: str) -> None:
    """Compress all networks with all settings and seeds. line: the command line, for result files."""
    from common.data import load_data
    from deep_compression.stages import root_stage

    set_threads(options.run.threads)
    device, data = choose_device(options.run.device), load_data(options.data)
    data = data.holdout(HOLDOUT) if options.holdout else data
    first, workers = options.repeat.seed, options.data.workers
    for arch in options.arch:
        recipe = MNIST_RECIPES[arch]
        if options.settings_dir:
            chosen = read_json(Path(options.settings_dir) / f"choice-{arch}.json")["chosen"]
            recipe = replace(recipe, validated=tuple(chosen["validated"]))
        recipe = scaled_epochs(recipe, options.epochs_factor)
        for seed in range(first, first + options.seeds):
            stage = root_stage(Path(options.out) / f"{arch}-{seed}", data, device, seed, options.repeat.force)
            for settings, folder in compress_with(options.settings, arch, recipe, stage, data, workers):
                print(f"{arch}, seed {seed}, {settings}: {summary(folder)}", flush=True)
                if options.results:
                    write_result(Path(options.results), arch, settings, seed, folder, line)


def compress_with(
    names: Sequence[str], arch: str, recipe: MnistRecipe, stage: Stage, data: DataBundle, workers: int = 2
) -> Iterator[tuple[str, Path]]:
    """Compress with each of the settings; yield (settings, run folder). They share the dense network.

    The extended settings start from one pruned network: that of `paper`, or `start` of the recipe.
    """
    from deep_compression import stages

    places = {name: replace(stage, folder=stage.folder / name) for name in ("paper", "start", *names)}
    dense = train_dense(arch, recipe.dense, stage, data, "dense", workers)
    for name in names:
        begin = dense
        if name != "paper":
            place, plan = ("start", recipe.start) if recipe.start else ("paper", recipe.paper.pruning)
            begin = stages.prune(dense, places[place], plan, recipe.paper.pruning_training)
        yield name, stages.compress(begin, places[name], recipe.compression(name))


def train_dense(
    arch: str, training: TrainOptions, stage: Stage, data: DataBundle, name: str, workers: int = 2, **arguments: Any
) -> TrainedModel:
    """Train the dense network in STAGE/NAME, unless that is finished. arguments: of the network's constructor."""
    import torch

    from common.models import create_model
    from common.trained_model import read_trained_model

    options = {"arch": arch, "dataset": data.name, "seed": stage.seed, **vars(training)}
    part = stage.substage(name, options, fingerprint=data.fingerprint)
    device = torch.device(stage.device)
    if not part.finished:
        torch.manual_seed(stage.seed)
        train_baseline(part, create_model(arch, **arguments), data, training, device, stage.seed, workers)
    return read_trained_model(part.model_path, data, device=device, workers=workers)


def summary(folder: Path) -> str:
    """Summarize errors, sizes and the compression ratio of a run."""
    metrics = read_json(folder / "metrics.json")
    dense, small = metrics["baseline"], metrics["compressed"]
    return (
        f"error {100 - dense['top1']:.2f} % -> {100 - small['top1']:.2f} %, {metrics['weight_bytes']:,} -> "
        f"{small['bytes']:,} bytes, {metrics['rate']:.1f}x"
    )


def write_result(folder: Path, arch: str, settings: str, seed: int, run: Path, command: str) -> None:
    """Write a result file for the README's tables: the run's metrics and its size table by layer."""
    from deep_compression.compressed import size_report
    from deep_compression.size_tables import as_json
    from deep_compression.stages import ENCODED

    report = as_json(size_report(run / ENCODED))
    record = {**read_json(run / "metrics.json"), "settings": settings, "command": command, "report": report}
    write_json(folder / f"mnist-{arch}-{settings}-seed{seed}.json", record)


if __name__ == "__main__":
    sys.exit(main())
