"""ResNet-56 on CIFAR-10 without fine-tuning: top-1 and agreement against MACs, on all test pictures.

    python benchmarks/resnet56_curve.py --weights resnet56.th --dataset-dir CIFAR [--targets 0.75 0.6] [--methods id l1]

A point is a file results/curve-resnet56-<method>-<target>.json; what is there is skipped. All methods of a target have the
widths of ID's own budget, so that they differ in which channels stay and how the next layer is told; torch-pruning decides
its own widths. Statistics are gathered once. Every network is written to disk and read back before it is measured.
"""

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from common import cli
from common.atomic import write_json
from common.channels import channel_groups, keep_channels, top_channels
from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import DataBundle, load_dataset
from common.device import set_threads
from common.factory import named_model
from common.measure import evaluate
from common.runs import describe_environment
from common.target import TOLERANCE, Target
from model_preserving_id.activations import gather
from model_preserving_id.compensate import compensate
from model_preserving_id.damage import DAMAGE_INPUTS, first_inputs, measure_damage
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.paper.tables import RESULTS
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.prune import shrink_all
from model_preserving_id.ranking import rank_groups
from model_preserving_id.streams import is_stream
from model_preserving_id.widths import by_budget, measured_loss

COMPENSATED = {"id": "none", "id-t": "t", "id-weights": "weights", "l1-weights": "weights", "random-weights": "weights"}
METHODS = ("id", "id-weights", "without-t", "l1", "random", "group-norm")
MORE = ("id-t", "l1-weights", "random-weights")  # only where they are asked for
TARGETS = (0.75, 0.6, 0.5, 0.8, 0.9, 0.7, 0.4)
SEED = 2


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--targets", type=cli.fraction, nargs="+", default=list(TARGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *MORE))
    parser.add_argument(
        "--pictures", type=cli.positive_int, default=5000, help="training pictures for the decomposition"
    )
    parser.add_argument("--solve-with", type=cli.positive_int, default=1000, help="of them for --compensation weights")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir)
    model = named_model("resnet56", args.weights, data.num_classes, data.input_shape)
    curve = Curve(model.eval().to(memory_format=torch.channels_last), data, args.pictures, args.solve_with)
    for target in args.targets:
        for method in args.methods:
            file = args.results / f"curve-resnet56-{method}-{target:g}.json"
            if not file.is_file():
                write_json(file, curve.point(method, target))


class Curve:
    """What all points share: the network's decisions, statistics, the damage of a cut, widths."""

    def __init__(self, model: nn.Module, data: DataBundle, pictures: int, solve_with: int) -> None:
        self.model, self.data = model, data
        self.pictures = pruning_pictures(data, pictures, SEED)
        self.fewer = pruning_pictures(data, min(solve_with, pictures), SEED)
        self.example = torch.zeros(1, *data.input_shape)

    @cached_property
    def dense(self):
        return evaluate(self.model, self.data.test)

    @cached_property
    def statistics(self):
        folded = self.folded()
        return gather(folded.model, folded.all_readings(), self.pictures)

    @cached_property
    def rankings(self):
        return rank_groups(self.folded(), self.statistics)

    @cached_property
    def damage(self):
        return measure_damage(self.folded(), self.rankings, self.statistics, first_inputs(self.pictures, DAMAGE_INPUTS))

    def folded(self) -> FoldedNetwork:
        """Inner channels only."""
        return FoldedNetwork(self.model, self.example, streams="off")

    def point(self, method: str, target: float) -> dict:
        start = time.process_time()
        smaller = self.pruned(method, target)
        seconds = time.process_time() - start
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model.safetensors", smaller, normalize=(self.data.mean, self.data.std))
            smaller = load_model(Path(folder) / "model.safetensors")
        smaller.to(memory_format=torch.channels_last)
        accuracy = evaluate(smaller, self.data.test, reference=self.dense.predictions)
        cost = count_cost(smaller, self.data.input_shape)
        print(f"{method:10s} {target:g}: top-1 {accuracy.top1:.2f}, agreement {accuracy.agreement:.2f}", flush=True)
        return {
            "method": method,
            "target": target,
            "top1": round(accuracy.top1, 4),
            "agreement": round(accuracy.agreement or 0.0, 4),
            "loss": round(accuracy.loss, 6),
            "dense_top1": round(self.dense.top1, 4),
            "macs": cost.macs,
            "params": cost.params,
            "cpu_seconds": round(seconds, 1),
            "pictures": len(self.pictures.images),
            "pictures_solved_with": len(self.fewer.images) if COMPENSATED.get(method, "none") != "none" else None,
            "test_pictures": len(self.data.test),
            "seed": SEED,
            "command": "python benchmarks/resnet56_curve.py",
            "environment": describe_environment("cpu"),
            "data_fingerprint": self.data.fingerprint,
        }

    def pruned(self, method: str, target: float) -> nn.Module:
        if method == "group-norm":
            return group_norm(self.model, self.example, target)
        folded = self.folded()
        widths = by_budget(self.rankings, folded.macs, folded.dense_macs, Target(target), measured_loss(self.damage))
        if method in COMPENSATED and method.startswith("id"):
            shrink_all(folded, self.rankings, self.statistics, widths)
            compensate(folded, self.fewer, COMPENSATED[method])
            return folded.pruned()
        draw = np.random.default_rng(0)
        scores = {
            "l1": lambda name: self.model.get_submodule(name).weight.detach().abs().flatten(1).sum(1).tolist(),
            "random": lambda name: draw.random(self.rankings[name].size).tolist(),
            "without-t": lambda name: (-np.argsort(self.rankings[name].order)).tolist(),
        }[method.removesuffix("-weights")]
        kept = {name: top_channels(scores(name), width) for name, width in widths.items()}
        if method in COMPENSATED:
            for name, channels in kept.items():
                folded.shrink(name, channels, self.statistics[name])
            compensate(folded, self.fewer, COMPENSATED[method])
            return folded.pruned()
        return keep_channels(self.model, self.example, kept)


def group_norm(model: nn.Module, example: torch.Tensor, target: float) -> nn.Module:
    """torch-pruning's own pruner by group norm, one shot, at the ratio whose MACs are nearest below the target.

    Residual streams are left alone (its trace of an option-A shortcut breaks when it cuts there), and so is the last layer.
    """
    streams = [producer for group in channel_groups(model, example) if is_stream(group) for producer in group.producers]
    dense = count_cost(model, example.shape[1:]).macs

    def at(ratio: float) -> tuple[nn.Module, float]:
        smaller = copy.deepcopy(model)
        pruner = tp.pruner.BasePruner(
            smaller,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=True,
            ignored_layers=[smaller.get_submodule(name) for name in [*streams, "linear"]],
        )
        pruner.step()
        return smaller, count_cost(smaller, example.shape[1:]).macs / dense

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[1] <= target else (middle, high)
    smaller, found = at(high)
    if found < (1 - TOLERANCE) * target:
        print(f"group-norm: {found:.4f} of the MACs is the nearest below {target:g}")
    return smaller


if __name__ == "__main__":
    sys.exit(main())
