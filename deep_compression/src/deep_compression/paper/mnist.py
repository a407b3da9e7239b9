"""The paper's LeNet rows (tables 1 to 3) on MNIST: ``run_mnist.sh``.

For each network and seed: a dense network is trained; pruned, shared and encoded with the paper's densities and bits (row
`paper`); then, from that pruned network, pruned further: to the rate aimed at (row `best`), and as far as it went without loss
on training pictures held out (row `lossless`; see choice.py). A finished stage is skipped, an interrupted one goes on. The
figures are those of the last epoch on the test pictures.
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
from deep_compression.paper.courses import COURSES, HOLDOUT, Course, shortened
from deep_compression.paper.settings import Mnist
from deep_compression.settings import PACKAGE

if TYPE_CHECKING:
    from common.data import DataBundle
    from common.runs import Stage
    from common.trained_model import TrainedModel
    from common.training import TrainOptions


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("run_mnist.sh", argv)
    return command(Mnist, lambda settings: run_rows(settings, line), argv, "run_mnist.sh", PACKAGE)


def run_rows(settings: Mnist, line: str) -> None:
    """All rows of all networks and seeds. line: the command as typed, for result files."""
    from common.data import load_data
    from deep_compression.stages import chain

    set_threads(settings.run.threads)
    device, data = choose_device(settings.run.device), load_data(settings.data)
    data = data.holdout(HOLDOUT) if settings.holdout else data
    first, workers = settings.repeat.seed, settings.data.workers
    for arch in settings.arch:
        course = COURSES[arch]
        if settings.choice:
            chosen = read_json(Path(settings.choice) / f"choice-{arch}.json")["chosen"]
            course = replace(course, lossless=tuple(chosen["lossless"]))
        course = shortened(course, settings.epochs_factor)
        for seed in range(first, first + settings.seeds):
            stage = chain(Path(settings.out) / f"{arch}-{seed}", data, device, seed, settings.repeat.force)
            for row, folder in run_course(arch, course, stage, data, settings.rows, workers):
                print(f"{arch}, seed {seed}, {row}: {one_line(folder)}", flush=True)
                if settings.results:
                    write_result(Path(settings.results), arch, row, seed, folder, line)


def run_course(
    arch: str, course: Course, stage: Stage, data: DataBundle, rows: Sequence[str], workers: int = 2
) -> Iterator[tuple[str, Path]]:
    """(row, folder of the encoded network) for each wanted row; the dense network and the first pruning serve both."""
    from deep_compression import stages

    places = {row: replace(stage, folder=stage.folder / row) for row in ("paper", *rows)}
    dense = train_dense(arch, course.dense, stage, data, "dense", workers)
    pruned = stages.prune(dense, places["paper"], course.paper.prune, course.paper.prune_training)
    for row in rows:
        yield row, stages.compress(dense if row == "paper" else pruned, places[row], course.recipe(row))


def train_dense(
    arch: str, training: TrainOptions, stage: Stage, data: DataBundle, name: str, workers: int = 2, **arguments: Any
) -> TrainedModel:
    """Train the dense network in STAGE/NAME, unless that is done. arguments: of the network's constructor."""
    import torch

    from common.models import create_model
    from common.trained_model import read_trained_model

    options = {"arch": arch, "dataset": data.name, "seed": stage.seed, **vars(training)}
    part = stage.part(name, options, fingerprint=data.fingerprint)
    device = torch.device(stage.device)
    if not part.finished:
        torch.manual_seed(stage.seed)
        train_baseline(part, create_model(arch, **arguments), data, training, device, stage.seed, workers)
    return read_trained_model(part.model_path, data, device=device, workers=workers)


def one_line(folder: Path) -> str:
    metrics = read_json(folder / "metrics.json")
    dense, small = metrics["baseline"], metrics["compressed"]
    return (
        f"error {100 - dense['top1']:.2f} % -> {100 - small['top1']:.2f} %, {metrics['weight_bytes']:,} -> "
        f"{small['bytes']:,} bytes, {metrics['rate']:.1f}x"
    )


def write_result(folder: Path, arch: str, row: str, seed: int, run: Path, command: str) -> None:
    """One file for the README's tables: the run's metrics and its table layer by layer."""
    from deep_compression.compressed import account
    from deep_compression.report import as_json
    from deep_compression.stages import ENCODED

    found = account(run / ENCODED)
    record = {**read_json(run / "metrics.json"), "row": row, "command": command, "report": as_json(found)}
    write_json(folder / f"mnist-{arch}-{row}-seed{seed}.json", record)


if __name__ == "__main__":
    sys.exit(main())
