"""Train, prune and fine-tune the networks of the paper's CIFAR-10 table at small scale, and print one table row each.

    python benchmarks/every_network.py [--networks vgg16 resnet110 densenet40 googlenet] [--dataset digits] [--target-macs 0.7]

Finished runs are skipped. ``python -m decore.paper.tables --add RUN_FOLDER ...`` keeps the results. Published rows are printed above each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import train
from common.markdown import pad_table
from common.runs import CONFIG, METRICS, read_json
from decore.paper.tables import tabulate_runs
from decore.settings import main_prune

NETWORKS = ("vgg16", "resnet56", "resnet110", "densenet40", "googlenet")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the dense network's training")
    parser.add_argument("--policy-epochs", type=int, default=4)
    parser.add_argument("--finetune-epochs", type=int, default=3)
    parser.add_argument("--policy-images", type=int, default=400, help="number of training images in the policy phase")
    parser.add_argument(
        "--agent-init",
        type=float,
        default=3.0,
        help="initial weight of every agent; less than the paper's 6.9 because there are few steps",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--target-macs", type=float, default=0.7)
    parser.add_argument("--out", default="runs/every_network")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    runs = []
    for arch in args.networks:
        runs.append(one_network(arch, args))
    print(pad_table(tabulate_runs(runs)))
    return 0


def one_network(arch: str, args: argparse.Namespace) -> dict:
    """Train and prune a network with the public commands, and return the metrics and options of the finished run."""
    out, penalty = Path(args.out), "auto"
    shared = [
        "--arch",
        arch,
        "--dataset",
        args.dataset,
        "--batch-size",
        str(args.batch_size),
        "--threads",
        str(args.threads),
    ]
    shared += ["--dataset-dir", args.dataset_dir] if args.dataset_dir else []
    shared += ["--amp"] if args.amp else []
    dense = out / f"{arch}-dense"
    recipe = ["--learning-rate", "0.05", "--weight-decay", "5e-4", "--nesterov"]
    recipe += [
        "--warmup-epochs",
        str(min(1.0, args.epochs / 2)),
    ]  # without these, ResNet-110 is at chance level after four epochs
    _done(train.main([*shared, "--epochs", str(args.epochs), *recipe, "--out", str(dense)]))
    words = [
        "--checkpoint",
        str(dense / "model.safetensors"),
        "--penalty",
        penalty,
        "--policy-images",
        str(args.policy_images),
    ]
    words += ["--epochs", str(args.policy_epochs + args.finetune_epochs), "--policy-epochs", str(args.policy_epochs)]
    words += [
        "--agents-learning-rate",
        "0.3",
        "--agent-init",
        str(args.agent_init),
        "--no-augment",
        "--bn-images",
        str(args.policy_images),
    ]
    words += ["--target-macs", str(args.target_macs), "--saved-dir", str(out)]
    _done(main_prune([*shared, *words]))
    folder = out / f"{arch}-{penalty}-macs{args.target_macs:g}"
    return {**read_json(folder / METRICS), "options": read_json(folder / CONFIG)["options"]}


def _done(status: int) -> None:
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    sys.exit(main())
