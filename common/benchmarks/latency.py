"""Latency saved over MACs saved, (1 - t'/t) / (1 - m'/m), at half of the MACs. Batch size 64, widths in 8s, has a target.

python benchmarks/latency.py --threads 2
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common import cli
from common.cost import count_cost
from common.device import set_threads
from common.latency import DENSE, format_gains, latency_gains, uniform_network
from common.measure import measure_latency_series
from common.models import create_model, input_shape
from common.reporting.benchmark import BenchmarkValue, write_benchmark

FLOORS = {"vgg16": 0.85, "resnet56": 0.60}
NAMES = {"vgg16": "VGG-16", "resnet56": "ResNet-56"}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python benchmarks/latency.py", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    parser.add_argument("--repeats", type=int, default=15, help="repeats, of which the median is reported")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    all_series, ratios = {}, []
    for arch, floor in FLOORS.items():
        networks = {
            DENSE: create_model(arch).eval(),
            "widths in 8s": uniform_network(arch, 0.5, 8),
            "any width": uniform_network(arch, 0.5),
        }
        shape = input_shape(networks[DENSE])
        series = measure_latency_series(networks, shape, repeats=args.repeats)
        found = latency_gains(series, {name: count_cost(model, shape).macs for name, model in networks.items()})
        print(f"{NAMES[arch]}, {args.threads} threads\n{format_gains(found)}")
        for gain in found:
            bound = floor if gain.batch == 64 and gain.network == "widths in 8s" else 0.0
            quantity = f"{NAMES[arch]}, {100 * (1 - gain.macs_saved):.0f} % of the MACs, {gain.network}, batch {gain.batch}: latency saved over MACs saved"
            ratios.append(BenchmarkValue(quantity, "the dense network", round(gain.ratio, 4), bound))
        all_series |= {
            f"{arch} {name}, batch {batch}": values for name, of in series.items() for batch, values in of.items()
        }
    command = f"python benchmarks/latency.py --threads {args.threads} --repeats {args.repeats}"
    write_benchmark(args.out / "speed-latency.json", command, "ms per batch", all_series, ratios)


if __name__ == "__main__":
    sys.exit(main())
