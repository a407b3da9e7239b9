"""Measure the fraction of the MACs saving that is realized as latency, (1 - t'/t) / (1 - m'/m), at 50 % of the MACs.

python benchmarks/latency.py --threads 2
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common import cli
from common.cost import count_cost
from common.device import set_threads
from common.errors import UserError
from common.latency import describe_control, format_gains, latency_gains
from common.measure import measure_latency
from common.models import create_model, input_shape
from common.reporting.benchmark import BenchmarkValue, write_benchmark
from common.timed_networks import DENSE, uniform_network

FLOORS = {"vgg16": 0.85, "resnet56": 0.60}
NAMES = {"vgg16": "VGG-16", "resnet56": "ResNet-56"}
FAVORED = "widths multiples of 16"  # a vector of AVX-512 holds as many; the floors are for widths that a machine computes fast
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return an exit status."""
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python benchmarks/latency.py", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads")
    parser.add_argument("--seconds", type=float, default=60, help="longest duration, per network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    everything, values = {}, []
    for arch, floor in FLOORS.items():
        networks = {
            DENSE: create_model(arch).eval(),
            "widths multiples of 8": uniform_network(arch, 0.5, 8),
            "widths multiples of 16": uniform_network(arch, 0.5, 16),
            "any width": uniform_network(arch, 0.5),
        }
        shape = input_shape(networks[DENSE])
        measured = measure_latency(networks, shape, reference=DENSE, seconds=args.seconds)
        if measured.disturbed:
            raise UserError(f"not an idle machine, nothing is written: {measured.disturbed}")
        found = latency_gains(measured, {name: count_cost(model, shape).macs for name, model in networks.items()})
        print(f"{NAMES[arch]}, {args.threads} threads; {describe_control(measured)}\n{format_gains(found)}")
        for gain in found:
            bound = floor if gain.batch == 64 and gain.network == FAVORED else 0.0
            quantity = f"{NAMES[arch]}, {100 * (1 - gain.macs_saved):.0f} % of the MACs, {gain.network}, batch {gain.batch}: fraction of the MACs saving realized as latency"
            values.append(BenchmarkValue(quantity, "dense network", round(gain.ratio, 4), bound, unit="%"))
        everything |= {
            f"{arch} {name}, batch {batch}": [1000 * seconds for seconds in times]
            for batch, timing in measured.timings.items()
            for name, times in timing.series.items()
        }
    command = f"python benchmarks/latency.py --threads {args.threads} --seconds {args.seconds:g}"
    write_benchmark(args.out / "speed-latency.json", command, "ms per batch", everything, values)


if __name__ == "__main__":
    sys.exit(main())
