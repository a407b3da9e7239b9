"""Ablate settings on ResNet-56 without fine-tuning, measured on held-out training images.

    python benchmarks/resnet56_choices.py --weights resnet56.th --dataset-dir CIFAR [--rows NAME ...] [--targets 0.75 0.6]

A row differs from the first one in the settings that its name states. Each row and target is a file
results/choice-<row>-<target>.json; existing files are skipped. Test images are not used.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common import cli
from common.atomic import write_json
from common.batchnorm import recalibrate_batch_norm
from common.cost import count_cost
from common.data import load_dataset
from common.data.batches import take_images
from common.device import set_threads
from common.factory import model_from_name
from common.limits import Limits
from common.measure import evaluate
from common.runs import describe_environment
from common.target import TOLERANCE, Target
from model_preserving_id.activations import gather_statistics
from model_preserving_id.calibration import CalibrationImages, calibration_images
from model_preserving_id.channel_ranking import rank_groups
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, iterate
from model_preserving_id.paper.tables import CHOICES, RESULTS
from model_preserving_id.prune import prune_all
from model_preserving_id.sensitivity import SENSITIVITY_IMAGES, compute_outputs, measure_sensitivity
from model_preserving_id.width_allocation import (
    error_score,
    sensitivity_score,
    widths_from_eps,
    widths_from_fraction,
    widths_from_target,
)

SEED = 2


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--targets", type=cli.fraction, nargs="+", default=[0.75, 0.6])
    parser.add_argument("--rows", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument(
        "--holdout", type=cli.positive_int, default=2000, help="number of training images to measure on"
    )
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir)
    last = np.random.default_rng(SEED).permutation(len(data.train))[-args.holdout :]
    holdout = data.train.subset(torch.from_numpy(last))
    model = model_from_name("resnet56", args.weights, data.num_classes, data.input_shape)
    model.eval().to(memory_format=torch.channels_last)
    dense = evaluate(model, holdout)
    logits = compute_outputs(model, CalibrationImages(holdout, 250))
    shared = SharedStatistics(model, data)
    for row in args.rows:
        for target in args.targets:
            file = RESULTS / f"choice-{row}-{target:g}.json"
            if file.is_file():
                continue
            start = time.process_time()
            smaller = prune(shared, target, **CHOICES[row][1]).to(memory_format=torch.channels_last)
            seconds = time.process_time() - start
            accuracy = evaluate(smaller, holdout, reference=dense.predictions)
            changed = (
                compute_outputs(smaller, CalibrationImages(holdout, 250)) - logits
            ).square().mean() / logits.square().mean()
            cost = count_cost(smaller, data.input_shape)
            record = {"row": row, "target": target, "settings": CHOICES[row][1], "top1": round(accuracy.top1, 4)}
            record |= {"agreement": accuracy.agreement, "output_change": round(float(changed), 6), "macs": cost.macs}
            record |= {
                "dense_top1": dense.top1,
                "holdout": args.holdout,
                "cpu_seconds": round(seconds, 1),
                "seed": SEED,
            }
            record |= {"command": "python benchmarks/resnet56_choices.py", "environment": describe_environment("cpu")}
            write_json(file, record)
            print(
                f"{row:24s} {target:g}: agreement {accuracy.agreement:.2f}, change {float(changed):.4f},"
                f" macs {cost.macs / shared.macs:.4f}, {seconds:.0f} s",
                flush=True,
            )


class SharedStatistics:
    """Statistics and sensitivities, computed once per number of images and residual mode."""

    def __init__(self, model: torch.nn.Module, data) -> None:
        self.model, self.data = model, data
        self.macs = count_cost(model, data.input_shape).macs
        self._statistics: dict[Any, Any] = {}
        self._sensitivity: dict[Any, Any] = {}

    def statistics(self, folded: FoldedNetwork, images: int):
        key = (images, folded.residual)
        if key not in self._statistics:
            inputs = calibration_images(self.data, images, SEED)
            self._statistics[key] = gather_statistics(folded.model, folded.consumer_inputs(), inputs)
        return self._statistics[key]

    def sensitivity(self, folded: FoldedNetwork, rankings, statistics, images: int):
        key = (images, folded.residual)
        if key not in self._sensitivity:
            inputs = take_images(calibration_images(self.data, images, SEED), SENSITIVITY_IMAGES)
            self._sensitivity[key] = measure_sensitivity(folded, rankings, statistics, inputs)
        return self._sensitivity[key]


def prune(
    shared: SharedStatistics,
    target: float,
    *,
    images: int = 500,
    score: str = "frobenius",
    compensation: str = "none",
    residual: str = "keep",
    method: str = "budget",
    recalibrate_bn: bool = False,
    round_to: int = 1,
    reconstruction_images: int | None = None,
) -> torch.nn.Module:
    """Build the network of one row."""
    inputs = calibration_images(shared.data, images, SEED)
    example = torch.zeros(1, *shared.data.input_shape)
    folded = FoldedNetwork(shared.model, example, residual=residual, limits=Limits(round_to=round_to))
    if method == "iditer":
        iterate(folded, inputs, IterationOptions(Target(target), update_every=0.02, score=score))
    else:
        statistics = shared.statistics(folded, images)
        rankings = rank_groups(folded, statistics)
        if method == "budget":
            if score == "output-change":
                step_score = sensitivity_score(shared.sensitivity(folded, rankings, statistics, images))
            else:
                step_score = error_score(rankings, score)
            widths = widths_from_target(rankings, folded.macs, folded.dense_macs, Target(target), step_score)
        else:
            widths = _bisect(
                {"eps": widths_from_eps, "frac": widths_from_fraction}[method],
                rankings,
                folded,
                target,
                method == "frac",
            )
        prune_all(folded, rankings, statistics, widths)
    compensate(folded, calibration_images(shared.data, reconstruction_images or images, SEED), compensation)
    smaller = folded.build_pruned()
    return recalibrate_batch_norm(smaller, inputs) if recalibrate_bn else smaller


def _bisect(widths_of, rankings, folded: FoldedNetwork, target: float, rising: bool) -> dict[str, int]:
    """Return the widths of the eps, or fraction, whose MACs are nearest below the target."""
    low, high = 0.0, 1.0 - 1e-9
    best: dict[str, int] = {}
    for _ in range(40):
        middle = (low + high) / 2
        widths = widths_of(rankings, middle or 1e-9)
        fits = folded.macs(widths) <= target * folded.dense_macs
        best = widths if fits else best
        low, high = (middle, high) if fits == rising else (low, middle)
    if folded.macs(best) < (1 - 2 * TOLERANCE) * target * folded.dense_macs:
        print(f"target missed: {folded.macs(best) / folded.dense_macs:.4f} of the MACs")
    return best


if __name__ == "__main__":
    sys.exit(main())
