"""Compare predicted times of pruned networks (latency targets) with measured ones: the largest error of six networks of random widths.

python benchmarks/latency_prediction.py --threads 1 --runtime torch onnxruntime

An error is that of the fraction of the dense network's time, relative to the measured fraction. Widths are multiples of eight, from a tenth
of a group to all of it. The networks are not those to which the prediction is fitted.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from common import cli
from common.channels import channel_groups
from common.device import set_threads
from common.errors import UserError
from common.latency_target.predict import predict_latency, time_networks
from common.latency_target.table import STEP, LatencyTable
from common.limits import Limits
from common.models import create_model, input_shape
from common.options import LATENCY_RUNTIMES
from common.reporting.benchmark import BenchmarkValue, write_benchmark

NETWORKS = {"resnet56": ("ResNet-56", 64), "vgg16": ("VGG-16", 64), "mobilenet_v2": ("MobileNetV2", 1)}  # batch size
COUNT, RANGE = 6, 0.3  # random networks; from a network's mean fraction to the smallest and the largest one
BOUND = 0.1
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return an exit status."""
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python benchmarks/latency_prediction.py", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--runtime", nargs="+", default=["torch"], choices=LATENCY_RUNTIMES, help="runtimes")
    parser.add_argument("--seconds", type=float, default=20, help="longest duration of timing six networks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    series, values = {}, []
    for arch, (name, batch) in NETWORKS.items():
        model = create_model(arch).eval()
        shape = input_shape(model)
        groups = channel_groups(model, torch.zeros(1, *shape))
        networks = [{}, *random_widths(groups)]
        for runtime in args.runtime:
            with tempfile.TemporaryDirectory() as folder:  # everything is measured, nothing is read
                table = LatencyTable(batch, folder=Path(folder), runtime=runtime)
                predicted = predict_latency(model, shape, groups, table, Limits(round_to=STEP))
                timed = time_networks(model, shape, groups, networks, table, args.seconds)
            if timed.disturbed:
                raise UserError(f"not an idle machine, nothing is written: {timed.disturbed}")
            errors = []
            for i, widths in enumerate(networks):
                measured = timed.ratio(str(i)).value
                errors.append(abs(predicted.of(widths) / predicted.dense / measured - 1))
                series[f"{arch}, {runtime}, network {i}"] = [1000 * seconds for seconds in timed.series[str(i)]]
            quantity = f"{name}, batch {batch}, {runtime}: error of predicted times, the largest of {COUNT}"
            values.append(BenchmarkValue(quantity, "measured times", round(max(errors), 4), BOUND, True, "%"))
            print(f"{values[-1].quantity}: {values[-1].measured}")
    command = f"python benchmarks/latency_prediction.py --threads {args.threads} --runtime {' '.join(args.runtime)}"
    write_benchmark(args.out / "speed-latency-prediction.json", command, "ms per batch", series, values)


def random_widths(groups: Sequence) -> list[dict[str, int]]:
    """Return the widths of ``COUNT`` networks, always the same ones."""
    generator, limits, found = random.Random(0), Limits(round_to=STEP), []
    for _ in range(COUNT):
        mean = generator.uniform(0.3, 1.0)
        fractions = [min(1.0, max(0.1, generator.uniform(mean - RANGE, mean + RANGE))) for _ in groups]
        widths = {group.name: round(f * group.size) for group, f in zip(groups, fractions, strict=True)}
        found.append({group.name: limits.at_least(group, widths[group.name]) for group in groups})
    return found


if __name__ == "__main__":
    sys.exit(main())
