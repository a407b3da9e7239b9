"""Measure top-1 and agreement of ResNet-56 on CIFAR-10 against MACs, without fine-tuning, on all test images.

    python benchmarks/resnet56_curve.py --weights resnet56.th --dataset-dir CIFAR [--targets 0.75 0.6] [--methods id l1]

Each method and target is a file results/curve-resnet56-<method>-<target>.json; existing files are skipped. All methods use the
widths chosen by ID's budget method, so that they differ only in the kept channels and the reconstruction of the next layer;
torch-pruning chooses its own widths. Statistics are computed once. Every network is saved and reloaded before it is measured.
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
from common.data.batches import take_images
from common.device import set_threads
from common.factory import model_from_name
from common.measure import evaluate
from common.runs import describe_environment
from common.target import TOLERANCE, Target
from model_preserving_id.activations import gather_statistics
from model_preserving_id.calibration import calibration_images
from model_preserving_id.channel_ranking import rank_groups
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.paper.tables import RESULTS
from model_preserving_id.prune import prune_all
from model_preserving_id.residual import is_residual_stream
from model_preserving_id.sensitivity import SENSITIVITY_IMAGES, measure_sensitivity
from model_preserving_id.width_allocation import sensitivity_score, widths_from_target

COMPENSATED = {"id": "none", "id-t": "t", "id-weights": "weights", "l1-weights": "weights", "random-weights": "weights"}
METHODS = ("id", "id-weights", "without-t", "l1", "random", "group-norm")
MORE = ("id-t", "l1-weights", "random-weights")  # not run by default
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
    parser.add_argument("--images", type=cli.positive_int, default=5000, help="number of calibration images")
    parser.add_argument(
        "--reconstruction-images", type=cli.positive_int, default=1000, help="number of images for compensation"
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir)
    model = model_from_name("resnet56", args.weights, data.num_classes, data.input_shape)
    curve = Curve(model.eval().to(memory_format=torch.channels_last), data, args.images, args.reconstruction_images)
    for target in args.targets:
        for method in args.methods:
            file = args.results / f"curve-resnet56-{method}-{target:g}.json"
            if not file.is_file():
                write_json(file, curve.measure(method, target))


class Curve:
    """Predictions of the dense network, statistics and sensitivities, computed once for all points."""

    def __init__(self, model: nn.Module, data: DataBundle, images: int, reconstruction_images: int) -> None:
        self.model, self.data = model, data
        self.images = calibration_images(data, images, SEED)
        self.reconstruction_images = calibration_images(data, min(reconstruction_images, images), SEED)
        self.example = torch.zeros(1, *data.input_shape)

    @cached_property
    def dense(self):
        return evaluate(self.model, self.data.test)

    @cached_property
    def statistics(self):
        folded = self.fold()
        return gather_statistics(folded.model, folded.consumer_inputs(), self.images)

    @cached_property
    def rankings(self):
        return rank_groups(self.fold(), self.statistics)

    @cached_property
    def sensitivity(self):
        return measure_sensitivity(
            self.fold(), self.rankings, self.statistics, take_images(self.images, SENSITIVITY_IMAGES)
        )

    def fold(self) -> FoldedNetwork:
        """Return a new FoldedNetwork without residual streams."""
        return FoldedNetwork(self.model, self.example, residual="keep")

    def measure(self, method: str, target: float) -> dict:
        start = time.process_time()
        smaller = self.prune(method, target)
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
            "images": len(self.images.image_set),
            "reconstruction_images": len(self.reconstruction_images.image_set)
            if COMPENSATED.get(method, "none") != "none"
            else None,
            "test_images": len(self.data.test),
            "seed": SEED,
            "command": "python benchmarks/resnet56_curve.py",
            "environment": describe_environment("cpu"),
            "data_fingerprint": self.data.fingerprint,
        }

    def prune(self, method: str, target: float) -> nn.Module:
        if method == "group-norm":
            return prune_by_group_norm(self.model, self.example, target)
        folded = self.fold()
        widths = widths_from_target(
            self.rankings, folded.macs, folded.dense_macs, Target(target), sensitivity_score(self.sensitivity)
        )
        if method in COMPENSATED and method.startswith("id"):
            prune_all(folded, self.rankings, self.statistics, widths)
            compensate(folded, self.reconstruction_images, COMPENSATED[method])
            return folded.build_pruned()
        rng = np.random.default_rng(0)
        scores = {
            "l1": lambda name: self.model.get_submodule(name).weight.detach().abs().flatten(1).sum(1).tolist(),
            "random": lambda name: rng.random(self.rankings[name].size).tolist(),
            "without-t": lambda name: (-np.argsort(self.rankings[name].order)).tolist(),
        }[method.removesuffix("-weights")]
        kept = {name: top_channels(scores(name), width) for name, width in widths.items()}
        if method in COMPENSATED:
            for name, channels in kept.items():
                folded.prune_group(name, channels, self.statistics[name])
            compensate(folded, self.reconstruction_images, COMPENSATED[method])
            return folded.build_pruned()
        return keep_channels(self.model, self.example, kept)


def prune_by_group_norm(model: nn.Module, example: torch.Tensor, target: float) -> nn.Module:
    """Prune with torch-pruning by group norm in one shot, at the ratio whose MACs are nearest below the target.

    Residual streams are not pruned, since torch-pruning does not support option-A shortcuts, and neither is the last layer.
    """
    streams = [
        producer
        for group in channel_groups(model, example)
        if is_residual_stream(group)
        for producer in group.producers
    ]
    dense = count_cost(model, example.shape[1:]).macs

    def prune_at(ratio: float) -> tuple[nn.Module, float]:
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
        low, high = (low, middle) if prune_at(middle)[1] <= target else (middle, high)
    smaller, found = prune_at(high)
    if found < (1 - TOLERANCE) * target:
        print(f"group-norm: {found:.4f} of the MACs are the nearest below {target:g}")
    return smaller


if __name__ == "__main__":
    sys.exit(main())
