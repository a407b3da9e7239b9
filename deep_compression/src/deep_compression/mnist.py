"""The paper's LeNet rows (tables 1 to 3) on MNIST: ``run_mnist.sh``.

For each network and seed: a dense network is trained; pruned, shared and encoded with the paper's densities and bits (row
`paper`); then, from that pruned network, pruned further: to the rate aimed at (row `best`), and as far as it went without loss
on training pictures held out (row `lossless`; see choice.py). A finished stage is skipped, an interrupted one goes on. The
figures are those of the last epoch on the test pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.runs import open_stage, read_json
from common.settings import command
from common.train import train_baseline
from deep_compression.courses import COURSES, HOLDOUT, Course, shortened
from deep_compression.settings import PACKAGE, Mnist

if TYPE_CHECKING:
    from common.training import TrainOptions
    from deep_compression.stages import Setting


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("run_mnist.sh", argv)
    return command(Mnist, lambda settings: run_rows(settings, line), argv, "run_mnist.sh", PACKAGE)


def run_rows(settings: Mnist, line: str) -> None:
    """All rows of all networks and seeds. line: the command as typed, for result files."""
    from deep_compression.stages import Setting

    set_threads(settings.run.threads)
    device, data = choose_device(settings.run.device), cli.load_data(settings.data)
    data = data.holdout(HOLDOUT) if settings.holdout else data
    first, force = settings.repeat.seed, settings.repeat.force
    for arch in settings.arch:
        course = COURSES[arch]
        if settings.choice:
            chosen = read_json(Path(settings.choice) / f"choice-{arch}.json")["chosen"]
            course = replace(course, lossless=tuple(chosen["lossless"]))
        course = shortened(course, settings.epochs_factor)
        for seed in range(first, first + settings.seeds):
            setting = Setting(data, device, seed, settings.data.workers, latency=False, force=force)
            for row, folder in run_course(arch, course, Path(settings.out), setting, settings.rows):
                print(f"{arch}, seed {seed}, {row}: {one_line(folder)}", flush=True)
                if settings.results:
                    write_result(Path(settings.results), arch, row, seed, folder, line)


def run_course(arch: str, course: Course, out: Path, setting: Setting, rows: Sequence[str]):
    """(row, folder of the encoded network) for each wanted row; the dense network and the first pruning serve both."""
    from deep_compression import stages

    out = out / f"{arch}-{setting.seed}"
    dense = train_dense(arch, course.dense, out / "dense", setting)
    setting = replace(setting, baseline=dense)
    stages.prune(dense, out / "paper" / "prune", course.paper.prune, course.paper.prune_training, setting)
    pruned = out / "paper" / "prune" / "model.safetensors"
    for row in rows:
        yield row, stages.compress(dense if row == "paper" else pruned, out / row, course.recipe(row), setting)


def train_dense(arch: str, training: TrainOptions, folder: Path, setting: Setting, **arguments: Any) -> Path:
    """The dense network's file."""
    import torch

    from common.models import create_model

    data = setting.data
    options = {"arch": arch, "dataset": data.name, "seed": setting.seed, **vars(training)}
    run = open_stage(folder, PACKAGE, options, device=setting.device, fingerprint=data.fingerprint, force=setting.force)
    if not run.finished:
        torch.manual_seed(setting.seed)
        train_baseline(
            run, create_model(arch, **arguments), data, training, setting.device, setting.seed, setting.workers
        )
    return run.model_path


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
