"""Accuracy against file size on CIFAR-10: ``python -m deep_compression.cifar10``, from the networks that `common.fetch` gets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_json
from common.checkpoint import save_model
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.factory import named_model
from common.results import markdown_table
from common.runs import read_json
from common.training import TrainOptions
from deep_compression import stages
from deep_compression.plan import PrunePlan, Recipe, SharePlan
from deep_compression.stages import PACKAGE, Setting


def recipe(
    density: float, bits: int, epochs: int, share_epochs: int, amp: bool = False, learning_rate: float = 0.02
) -> Recipe:
    """One round to a global density, retraining, equally spaced centroids, a short training of those."""
    return Recipe(
        PrunePlan("global-density", (density,)),
        TrainOptions(epochs, 128, learning_rate, 0.9, 5e-4, nesterov=True, amp=amp),
        SharePlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16"),
        TrainOptions(share_epochs, 128, 1e-4, 0.9, 0.0, optimizer="adam", amp=amp),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m deep_compression.cifar10", description=__doc__, package=PACKAGE)
    parser.add_argument("--arch", default="resnet20", help="network")
    parser.add_argument("--weights", required=True, help="its trained weights, or a checkpoint")
    parser.add_argument(
        "--densities", type=cli.fraction, nargs="+", default=[0.5, 0.3], help="shares of the weights that live"
    )
    parser.add_argument("--bits", type=cli.positive_int, nargs="+", default=[5], help="bits per weight")
    parser.add_argument("--epochs", type=int, default=10, help="epochs after pruning")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="at their start; falls to zero as a cosine")
    parser.add_argument("--share-epochs", type=int, default=1, help="epochs of training the centroids")
    parser.add_argument(
        "--gradual",
        action="store_true",
        help="each density goes on from the network of the one before, not from the dense one",
    )
    parser.add_argument("--out", default="runs/cifar10", help="folder of the run folders")
    parser.add_argument("--results", default=None, help="folder for one JSON file per network; none if not given")
    cli.add_data_options(parser, dataset="cifar10")
    cli.add_run_options(parser)
    args = parser.parse_args(argv)
    command = cli.command_line("python -m deep_compression.cifar10", argv)
    set_threads(args.threads)
    device, data = choose_device(args.device), cli.load_data(args)
    lines = []
    for metrics in points(args, data, device):
        if args.results:
            write_json(Path(args.results) / f"cifar10-{metrics['point']}.json", {**metrics, "command": command})
        small, before = metrics["compressed"], metrics["baseline"]
        accuracies = (f"{before['top1']:.2f}", f"{small['top1']:.2f}")
        lines.append(
            (
                args.arch,
                metrics["density"],
                metrics["bits"],
                *accuracies,
                f"{small['bytes']:,}",
                f"{metrics['rate']:.1f}x",
            )
        )
        print(
            markdown_table(("network", "density", "bits", "dense top-1", "top-1", "bytes", "rate"), lines), flush=True
        )


def points(args: argparse.Namespace, data: DataBundle, device: torch.device) -> Iterator[dict[str, Any]]:
    """Metrics of each density with each number of bits, as they get ready; nothing is chosen by them."""
    out = Path(args.out) / f"{args.arch}-{args.seed}"
    dense = start = dense_file(args.arch, args.weights, data, out / "dense.safetensors")
    setting = Setting(data, device, args.seed, args.workers, dense, latency=False, force=args.force)
    label = args.arch
    for density in args.densities:
        label = f"{label if args.gradual else args.arch}-density{density:g}"
        folder = out / f"{label.removeprefix(f'{args.arch}-')}-epochs{args.epochs}"
        for bits in args.bits:
            plan = recipe(density, bits, args.epochs, args.share_epochs, args.amp, args.learning_rate)
            stages.prune(start, folder / "prune", plan.prune, plan.prune_training, setting)
            pruned = folder / "prune" / "model.safetensors"
            shared = folder / (f"bits{bits}" if args.share_epochs == 1 else f"bits{bits}-epochs{args.share_epochs}")
            stages.share(pruned, shared / "share", plan.share, plan.share_training, setting)
            stages.encode(shared / "share" / "model.safetensors", shared / "encode", plan.encode, setting)
            point = f"{label}-bits{bits}-epochs{args.epochs}" + (
                "" if args.share_epochs == 1 else f"-{args.share_epochs}"
            )
            yield read_json(shared / "encode" / "metrics.json") | {
                "point": point, "density": density, "bits": bits, "epochs": args.epochs, "share_epochs": args.share_epochs,
                "learning_rate": args.learning_rate, "gradual": args.gradual, "amp": args.amp,
                "top1_pruned": read_json(folder / "prune" / "metrics.json")["compressed"]["top1"],
            }  # fmt: skip
        start = pruned if args.gradual else dense


def dense_file(arch: str, weights: str, data: DataBundle, path: Path) -> Path:
    """The trained network as a checkpoint of ours."""
    model = named_model(arch, weights, data.num_classes, data.input_shape)
    save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    return path


if __name__ == "__main__":
    sys.exit(main())
