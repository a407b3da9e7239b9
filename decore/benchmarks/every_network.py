"""The networks of the paper's CIFAR-10 table, end to end at small scale: train, agents, cut, fine-tuning, a row each.

    python benchmarks/every_network.py [--networks vgg16 resnet110 densenet40] [--dataset digits] [--target-macs 0.7]

What is finished is skipped; ``python -m decore.paper.tables --add RUN_FOLDER ...`` keeps the rows. Beneath each stand the published ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common import train
from common.markdown import padded
from common.runs import METRICS, read_json
from decore.paper.tables import end_to_end
from decore.settings import main_prune

NETWORKS = ("vgg16", "resnet56", "resnet110", "densenet40")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--epochs", type=int, default=12, help="of the dense network's training")
    parser.add_argument("--policy-epochs", type=int, default=4)
    parser.add_argument("--finetune-epochs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=400, help="of the policy phase")
    parser.add_argument(
        "--init", type=float, default=3.0, help="weight of a fresh agent; less than the paper's 6.9 for few steps"
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
    print(padded(end_to_end(runs)))
    return 0


def one_network(arch: str, args: argparse.Namespace) -> dict:
    """Train it, prune it with the two commands that everybody uses; the finished run's metrics."""
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
    recipe += ["--warmup-epochs", str(min(1.0, args.epochs / 2))]  # four epochs without these left ResNet-110 at chance
    _done(train.main([*shared, "--epochs", str(args.epochs), *recipe, "--out", str(dense)]))
    words = ["--checkpoint", str(dense / "model.safetensors"), "--penalty", penalty, "--pictures", str(args.pictures)]
    words += ["--epochs", str(args.policy_epochs + args.finetune_epochs), "--policy-epochs", str(args.policy_epochs)]
    words += [
        "--agents-learning-rate",
        "0.3",
        "--init",
        str(args.init),
        "--no-augment",
        "--refresh",
        str(args.pictures),
    ]
    words += ["--target-macs", str(args.target_macs), "--saved-dir", str(out)]
    _done(main_prune([*shared, *words]))
    return read_json(out / f"{arch}-{penalty}-macs{args.target_macs:g}" / METRICS)


def _done(status: int) -> None:
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    sys.exit(main())
