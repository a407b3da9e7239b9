"""The paper's LeNet rows (tables 1 to 3) on MNIST: ``run_mnist.sh``.

For each network and seed: a dense network is trained; pruned, shared and encoded with the paper's densities and bits (row
`paper`); then, from that pruned network, pruned further and encoded as small as it goes without loss (row `best`).
A finished stage is skipped, an interrupted one goes on. The settings were chosen with --holdout, on a part of the training
pictures; the figures are those of the last epoch on the test pictures.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_json
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.models import create_model
from common.runs import open_run, read_json
from common.train import train_baseline
from common.training import TrainOptions
from deep_compression import stages
from deep_compression.compressed import account
from deep_compression.plan import PrunePlan, Recipe, SharePlan
from deep_compression.report import as_json
from deep_compression.stages import ENCODED, PACKAGE, Setting

HOLDOUT = 1 / 6


@dataclass(frozen=True)
class Course:
    """How one network is trained and compressed. `best` starts from the network that `paper` has pruned."""

    dense: TrainOptions
    paper: Recipe
    best: Recipe


def _sgd(epochs: int, rate: float, **more: Any) -> TrainOptions:
    return TrainOptions(epochs, 128, rate, 0.9, 5e-4, nesterov=True, augment=False, **more)


CENTROIDS = TrainOptions(
    epochs=2, batch_size=128, learning_rate=1e-3, weight_decay=0.0, optimizer="adam", augment=False
)

COURSES = {
    "lenet300_100": Course(
        _sgd(10, 0.1),
        Recipe(
            PrunePlan("density", (0.3, 0.14, 0.08), {"fc2": (0.35, 0.18, 0.09), "fc3": (0.7, 0.4, 0.26)}, last_epochs=4),
            _sgd(1, 0.1),
            SharePlan(fc_bits=5, lloyd_steps=0),
            CENTROIDS,
        ),
        Recipe(
            PrunePlan("global-density", (0.065, 0.05), last_epochs=9),
            _sgd(2, 0.1),
            SharePlan(fc_bits=4, bias_bits=4, lloyd_steps=0, rounding="bfloat16"),
            CENTROIDS,
        ),
    ),
    "lenet5": Course(
        _sgd(5, 0.05, warmup_epochs=1),
        Recipe(
            PrunePlan(
                "density", (0.25, 0.08),
                {"conv1": (0.8, 0.66), "conv2": (0.35, 0.12), "fc2": (0.5, 0.19)}, last_epochs=4,
            ),
            _sgd(1, 0.05),
            SharePlan(conv_bits=8, fc_bits=5, lloyd_steps=0, rounding="bfloat16"),
            replace(CENTROIDS, epochs=1, learning_rate=5e-4),
        ),
        Recipe(
            PrunePlan("global-density", (0.045, 0.022), last_epochs=4),
            _sgd(1, 0.05),
            SharePlan(conv_bits=4, fc_bits=4, bias_bits=4, lloyd_steps=0, rounding="bfloat16"),
            replace(CENTROIDS, epochs=1, learning_rate=5e-4),
        ),
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="run_mnist.sh", description="The paper's LeNet rows on MNIST.", package=PACKAGE)
    parser.add_argument("--arch", nargs="+", choices=sorted(COURSES), default=list(COURSES), help="networks")
    parser.add_argument("--seeds", type=cli.positive_int, default=5, help="number of seeds, from --seed on")
    parser.add_argument(
        "--rows", nargs="+", choices=("paper", "best"), default=["paper", "best"], help="rows of the table"
    )
    parser.add_argument("--out", default="runs/mnist", help="folder of the run folders")
    parser.add_argument("--results", default=None, help="folder for one JSON file per row and seed; none if not given")
    parser.add_argument(
        "--holdout", action="store_true", help="measure on a sixth of the training pictures, for choices"
    )
    parser.add_argument(
        "--epochs-factor", type=float, default=1.0, help="multiplies all numbers of epochs, for a quick look"
    )
    cli.add_data_options(parser, dataset="mnist")
    cli.add_run_options(parser)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device, data = choose_device(args.device), cli.load_data(args)
    data = data.holdout(HOLDOUT) if args.holdout else data
    command = shlex.join(["run_mnist.sh", *(sys.argv[1:] if argv is None else argv)])
    for arch in args.arch:
        course = shortened(COURSES[arch], args.epochs_factor)
        for seed in range(args.seed, args.seed + args.seeds):
            setting = Setting(data, device, seed, args.workers, latency=False, force=args.force)
            for row, folder in run_course(arch, course, Path(args.out), setting, args.rows):
                print(f"{arch}, seed {seed}, {row}: {one_line(folder)}", flush=True)
                if args.results:
                    write_result(Path(args.results), arch, row, seed, folder, command)


def run_course(arch: str, course: Course, out: Path, setting: Setting, rows: Sequence[str]):
    """(row, folder of the encoded network) for each wanted row; the dense network and the first pruning serve both."""
    out = out / f"{arch}-{setting.seed}"
    dense = train_dense(arch, course.dense, out / "dense", setting)
    setting = replace(setting, baseline=dense)
    stages.prune(dense, out / "paper" / "prune", course.paper.prune, course.paper.prune_training, setting)
    if "paper" in rows:
        yield "paper", stages.compress(dense, out / "paper", course.paper, setting)
    if "best" in rows:
        yield "best", stages.compress(out / "paper" / "prune" / "model.safetensors", out / "best", course.best, setting)


def train_dense(arch: str, training: TrainOptions, folder: Path, setting: Setting) -> Path:
    """The dense network's file."""
    data: DataBundle = setting.data
    options = {"arch": arch, "dataset": data.name, "seed": setting.seed, **vars(training)}
    run = open_run(folder, PACKAGE, options, device=setting.device, fingerprint=data.fingerprint, force=setting.force)
    if not run.finished:
        torch.manual_seed(setting.seed)
        train_baseline(run, create_model(arch), data, training, setting.device, setting.seed, setting.workers)
    return run.model_path


def shortened(course: Course, factor: float) -> Course:
    """All numbers of epochs times the factor, at least 1."""

    def short(training: TrainOptions) -> TrainOptions:
        return replace(training, epochs=max(1, round(training.epochs * factor)))

    def shorter(recipe: Recipe) -> Recipe:
        last = recipe.prune.last_epochs
        prune = replace(recipe.prune, last_epochs=None if last is None else max(1, round(last * factor)))
        return replace(
            recipe,
            prune=prune,
            prune_training=short(recipe.prune_training),
            share_training=short(recipe.share_training),
        )

    return course if factor == 1 else Course(short(course.dense), shorter(course.paper), shorter(course.best))


def one_line(folder: Path) -> str:
    metrics = read_json(folder / "metrics.json")
    dense, small = metrics["baseline"], metrics["compressed"]
    return (
        f"error {100 - dense['top1']:.2f} % -> {100 - small['top1']:.2f} %, {metrics['weight_bytes']:,} -> "
        f"{small['bytes']:,} bytes, {metrics['rate']:.1f}x"
    )


def write_result(folder: Path, arch: str, row: str, seed: int, run: Path, command: str) -> None:
    """One file for the README's tables: the run's metrics and its table layer by layer."""
    found = account(run / ENCODED)
    record = {**read_json(run / "metrics.json"), "row": row, "command": command, "report": as_json(found)}
    write_json(folder / f"mnist-{arch}-{row}-seed{seed}.json", record)


if __name__ == "__main__":
    sys.exit(main())
