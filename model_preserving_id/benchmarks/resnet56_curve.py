"""ResNet-56 on CIFAR-10 without fine-tuning: top-1 and agreement against MACs, with and without T, and with compensation.

    python benchmarks/resnet56_curve.py --weights resnet56.th --dataset-dir CIFAR [--targets 0.8 0.7] [--pictures 5000] [--test 10000]

A point is a file results/curve-resnet56-<method>-<target>.json; what is there is skipped. All methods of a target have the
widths of ID's own budget, so that they differ in which channels stay and how the next layer is told.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from common import cli
from common.atomic import write_json
from common.channels import keep_channels, top_channels
from common.cost import count_cost
from common.data import load_dataset
from common.device import set_threads
from common.factory import named_model
from common.measure import evaluate
from common.runs import describe_environment
from model_preserving_id.activations import gather
from model_preserving_id.compensate import compensate
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.prune import shrink_all
from model_preserving_id.ranking import rank_groups
from model_preserving_id.subject import Subject
from model_preserving_id.tables import RESULTS
from model_preserving_id.widths import by_budget, relative_loss

METHODS = ("id", "id-t", "id-weights", "without-t", "l1", "random")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--test", type=int, default=10_000, help="test pictures: so many of a shuffle by seed 0")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir)
    test = data.test.subset(np.random.default_rng(0).permutation(len(data.test))[: args.test])
    model = named_model("resnet56", args.weights, data.num_classes, data.input_shape)
    model.eval().to(memory_format=torch.channels_last)
    dense = evaluate(model, test)
    pictures = pruning_pictures(data, args.pictures)
    for method in args.methods:
        for target in args.targets:
            file = RESULTS / f"curve-resnet56-{method}-{target:g}.json"
            if file.is_file():
                continue
            start = time.monotonic()
            smaller = pruned(model, pictures, target, method)
            seconds = time.monotonic() - start
            accuracy = evaluate(smaller.to(memory_format=torch.channels_last), test, reference=dense.predictions)
            cost = count_cost(smaller, data.input_shape)
            record = {"method": method, "target": target, "top1": accuracy.top1, "agreement": accuracy.agreement}
            record |= {"dense_top1": dense.top1, "macs": cost.macs, "params": cost.params, "seconds": round(seconds, 1)}
            record |= {
                "pictures": args.pictures,
                "test_pictures": args.test,
                "seed": 2,
                "command": "python benchmarks/resnet56_curve.py",
            }
            write_json(
                file, {**record, "environment": describe_environment("cpu"), "data_fingerprint": data.fingerprint}
            )
            print(f"{method:10s} {target:g}: top-1 {accuracy.top1:.2f}, agreement {accuracy.agreement:.2f}", flush=True)


def pruned(model: torch.nn.Module, pictures, target: float, method: str) -> torch.nn.Module:
    """Inner channels only (streams off): the network of one method at the widths of ID's budget for this target."""
    subject = Subject(model, torch.zeros(1, 3, 32, 32), streams="off")
    statistics = gather(subject.model, subject.all_readings(), pictures)
    rankings = rank_groups(subject, statistics)
    widths = by_budget(rankings, subject.macs, subject.dense_macs, target, relative_loss(rankings, "frobenius"))
    if method in ("l1", "random", "without-t"):
        draw = np.random.default_rng(0)
        scores = {
            "l1": lambda name: model.get_submodule(name).weight.detach().abs().flatten(1).sum(1).tolist(),
            "random": lambda name: draw.random(rankings[name].size).tolist(),
            "without-t": lambda name: [
                -float(np.flatnonzero(rankings[name].order == c)[0]) for c in range(rankings[name].size)
            ],
        }[method]
        return keep_channels(
            model, subject.example_input, {name: top_channels(scores(name), width) for name, width in widths.items()}
        )
    shrink_all(subject, rankings, statistics, widths)
    compensate(subject, pictures, {"id": "none", "id-t": "t", "id-weights": "weights"}[method])
    return subject.cut()


if __name__ == "__main__":
    sys.exit(main())
