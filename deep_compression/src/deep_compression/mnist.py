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
from deep_compression.courses import COURSES, HOLDOUT, Course, shortened
from deep_compression.report import as_json
from deep_compression.stages import ENCODED, PACKAGE, Setting

ROWS = ("paper", "lossless", "best")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="run_mnist.sh", description="The paper's LeNet rows on MNIST.", package=PACKAGE)
    parser.add_argument("--arch", nargs="+", choices=sorted(COURSES), default=list(COURSES), help="networks")
    parser.add_argument("--seeds", type=cli.positive_int, default=5, help="number of seeds, from --seed on")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="rows of the table")
    parser.add_argument("--out", default="runs/mnist", help="folder of the run folders")
    parser.add_argument("--results", default=None, help="folder for one JSON file per row and seed; none if not given")
    parser.add_argument(
        "--holdout", action="store_true", help="measure on a sixth of the training pictures, for choices"
    )
    parser.add_argument(
        "--choice",
        default=None,
        help="folder of choice-ARCH.json: settings of the row lossless other than the built-in ones",
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
    command = cli.command_line("run_mnist.sh", argv)
    for arch in args.arch:
        course = COURSES[arch]
        if args.choice:
            chosen = read_json(Path(args.choice) / f"choice-{arch}.json")["chosen"]
            course = replace(course, lossless=tuple(chosen["lossless"]))
        course = shortened(course, args.epochs_factor)
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
    pruned = out / "paper" / "prune" / "model.safetensors"
    for row in rows:
        yield row, stages.compress(dense if row == "paper" else pruned, out / row, course.recipe(row), setting)


def train_dense(arch: str, training: TrainOptions, folder: Path, setting: Setting, **arguments: Any) -> Path:
    """The dense network's file."""
    data: DataBundle = setting.data
    options = {"arch": arch, "dataset": data.name, "seed": setting.seed, **vars(training)}
    run = open_run(folder, PACKAGE, options, device=setting.device, fingerprint=data.fingerprint, force=setting.force)
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
    found = account(run / ENCODED)
    record = {**read_json(run / "metrics.json"), "row": row, "command": command, "report": as_json(found)}
    write_json(folder / f"mnist-{arch}-{row}-seed{seed}.json", record)


if __name__ == "__main__":
    sys.exit(main())
