"""Which settings matter to ResNet-56 without fine-tuning, asked of training pictures that no pruning set holds.

    python benchmarks/resnet56_choices.py --weights resnet56.th --dataset-dir CIFAR [--rows NAME ...] [--targets 0.75 0.6]

A row differs from the first one in what its name says. Each row and target is a file results/choice-<row>-<target>.json; what
is there is skipped. Test pictures are never read.
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
from common.device import set_threads
from common.factory import named_model
from common.measure import evaluate
from common.runs import describe_environment
from common.target import TOLERANCE, Target
from common.trained_model import Limits
from model_preserving_id.activations import gather
from model_preserving_id.compensate import compensate
from model_preserving_id.damage import DAMAGE_INPUTS, first_inputs, measure_damage, outputs_of
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterOptions, iterate
from model_preserving_id.paper.tables import CHOICES, RESULTS
from model_preserving_id.pictures import Pictures, pruning_pictures
from model_preserving_id.prune import shrink_all
from model_preserving_id.ranking import rank_groups
from model_preserving_id.widths import by_budget, by_eps, by_fraction, measured_loss, relative_loss

SEED = 2


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--targets", type=cli.fraction, nargs="+", default=[0.75, 0.6])
    parser.add_argument("--rows", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--holdout", type=cli.positive_int, default=2000, help="training pictures to measure on")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir)
    last = np.random.default_rng(SEED).permutation(len(data.train))[-args.holdout :]
    holdout = data.train.subset(torch.from_numpy(last))
    model = named_model("resnet56", args.weights, data.num_classes, data.input_shape)
    model.eval().to(memory_format=torch.channels_last)
    dense = evaluate(model, holdout)
    logits = outputs_of(model, Pictures(holdout, 250))
    known = Known(model, data)
    for row in args.rows:
        for target in args.targets:
            file = RESULTS / f"choice-{row}-{target:g}.json"
            if file.is_file():
                continue
            start = time.process_time()
            smaller = pruned(known, target, **CHOICES[row][1]).to(memory_format=torch.channels_last)
            seconds = time.process_time() - start
            accuracy = evaluate(smaller, holdout, reference=dense.predictions)
            changed = (outputs_of(smaller, Pictures(holdout, 250)) - logits).square().mean() / logits.square().mean()
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
                f" macs {cost.macs / known.macs:.4f}, {seconds:.0f} s",
                flush=True,
            )


class Known:
    """What rows share: statistics by number of pictures and streams, damage by the same."""

    def __init__(self, model: torch.nn.Module, data) -> None:
        self.model, self.data = model, data
        self.macs = count_cost(model, data.input_shape).macs
        self._statistics: dict[Any, Any] = {}
        self._damage: dict[Any, Any] = {}

    def statistics(self, folded: FoldedNetwork, pictures: int):
        key = (pictures, folded.streams)
        if key not in self._statistics:
            inputs = pruning_pictures(self.data, pictures, SEED)
            self._statistics[key] = gather(folded.model, folded.all_readings(), inputs)
        return self._statistics[key]

    def damage(self, folded: FoldedNetwork, rankings, statistics, pictures: int):
        key = (pictures, folded.streams)
        if key not in self._damage:
            inputs = first_inputs(pruning_pictures(self.data, pictures, SEED), DAMAGE_INPUTS)
            self._damage[key] = measure_damage(folded, rankings, statistics, inputs)
        return self._damage[key]


def pruned(
    known: Known,
    target: float,
    *,
    pictures: int = 500,
    score: str = "frobenius",
    compensation: str = "none",
    streams: str = "off",
    how: str = "budget",
    refresh_bn: bool = False,
    round_to: int = 1,
    solve_with: int | None = None,
) -> torch.nn.Module:
    """The network of one row."""
    inputs = pruning_pictures(known.data, pictures, SEED)
    example = torch.zeros(1, *known.data.input_shape)
    folded = FoldedNetwork(known.model, example, streams=streams, limits=Limits(round_to=round_to))
    if how == "iditer":
        iterate(folded, inputs, IterOptions(Target(target), score=score))
    else:
        statistics = known.statistics(folded, pictures)
        rankings = rank_groups(folded, statistics)
        if how == "budget":
            loss = relative_loss(rankings, score) if score != "measured" else None
            loss = loss or measured_loss(known.damage(folded, rankings, statistics, pictures))
            widths = by_budget(rankings, folded.macs, folded.dense_macs, Target(target), loss)
        else:
            widths = _bisected({"eps": by_eps, "frac": by_fraction}[how], rankings, folded, target, how == "frac")
        shrink_all(folded, rankings, statistics, widths)
    compensate(folded, pruning_pictures(known.data, solve_with or pictures, SEED), compensation)
    smaller = folded.pruned()
    return recalibrate_batch_norm(smaller, inputs) if refresh_bn else smaller


def _bisected(widths_of, rankings, folded: FoldedNetwork, target: float, rising: bool) -> dict[str, int]:
    """The widths of the one eps, or fraction, whose MACs are nearest below the target."""
    low, high = 0.0, 1.0 - 1e-9
    best: dict[str, int] = {}
    for _ in range(40):
        middle = (low + high) / 2
        widths = widths_of(rankings, middle or 1e-9)
        fits = folded.macs(widths) <= target * folded.dense_macs
        best = widths if fits else best
        low, high = (middle, high) if fits == rising else (low, middle)
    if folded.macs(best) < (1 - 2 * TOLERANCE) * target * folded.dense_macs:
        print(f"only {folded.macs(best) / folded.dense_macs:.4f} of the MACs could be met")
    return best


if __name__ == "__main__":
    sys.exit(main())
