"""Accuracy against file size on CIFAR-10: ``python -m deep_compression.cifar10``, from the networks that `common.fetch` gets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

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


def recipe(density: float, bits: int, epochs: int, share_epochs: int, amp: bool = False) -> Recipe:
    """One round to a global density, retraining, equally spaced centroids, a short training of those."""
    return Recipe(
        PrunePlan("global-density", (density,)),
        TrainOptions(epochs, 128, 0.02, 0.9, 5e-4, nesterov=True, amp=amp),
        SharePlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16"),
        TrainOptions(share_epochs, 128, 1e-4, 0.9, 0.0, optimizer="adam"),
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
    parser.add_argument("--share-epochs", type=int, default=1, help="epochs of training the centroids")
    parser.add_argument("--out", default="runs/cifar10", help="folder of the run folders")
    parser.add_argument("--results", default=None, help="folder for one JSON file per network; none if not given")
    cli.add_data_options(parser, dataset="cifar10")
    cli.add_run_options(parser)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device, data = choose_device(args.device), cli.load_data(args)
    out = Path(args.out) / f"{args.arch}-{args.seed}"
    dense = dense_file(args.arch, args.weights, data, out / "dense.safetensors")
    setting = Setting(data, device, args.seed, args.workers, dense, latency=False, force=args.force)
    lines = []
    for density in args.densities:
        for bits in args.bits:
            plan = recipe(density, bits, args.epochs, args.share_epochs, args.amp)
            pruned = out / f"density{density:g}-epochs{args.epochs}"
            stages.prune(dense, pruned / "prune", plan.prune, plan.prune_training, setting)
            shared = pruned / f"bits{bits}"
            start = pruned / "prune" / "model.safetensors"
            stages.share(start, shared / "share", plan.share, plan.share_training, setting)
            stages.encode(shared / "share" / "model.safetensors", shared / "encode", plan.encode, setting)
            metrics = read_json(shared / "encode" / "metrics.json")
            metrics |= {"density": density, "bits": bits, "epochs": args.epochs, "amp": args.amp}
            if args.results:
                name = f"cifar10-{args.arch}-density{density:g}-bits{bits}-epochs{args.epochs}.json"
                write_json(Path(args.results) / name, metrics)
            small, before = metrics["compressed"], metrics["baseline"]
            lines.append(
                (
                    args.arch,
                    density,
                    bits,
                    before["top1"],
                    small["top1"],
                    f"{small['bytes']:,}",
                    f"{metrics['rate']:.1f}x",
                )
            )
            print(
                markdown_table(("network", "density", "bits", "dense top-1", "top-1", "bytes", "rate"), lines),
                flush=True,
            )


def dense_file(arch: str, weights: str, data: DataBundle, path: Path) -> Path:
    """The trained network as a checkpoint of ours."""
    model = named_model(arch, weights, data.num_classes, data.input_shape)
    save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    return path


if __name__ == "__main__":
    sys.exit(main())
