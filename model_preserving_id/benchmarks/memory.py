"""Measure the peak memory of pruning, with random weights and images, each case in a separate process.

    python benchmarks/memory.py [--cases imagenet paused repeated] [--json results/speed-memory.json]

imagenet  VGG-16 at 224 x 224 pixels to 50 % of the MACs, 50 images, no compensation: at most 4 GB
paused    50 % of the channels of ResNet-56 and VGG-16 at 32 x 32 pixels, weights re-solved on 1000 and 500 images: the forward passes of
          all batches are paused at each layer; at most 2.4 and 1.9 GB
repeated  50 % of the channels of LeNet-5, weights re-solved on 18000 images, too many to be paused: separate forward passes for
          each layer; at most 1.1 GB

The value is the resident set of the process, including torch and the network, as reported by the operating system.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import cli
from common.device import set_threads
from common.models import create_model, input_shape
from common.reporting.benchmark import BenchmarkValue, write_benchmark
from model_preserving_id import prune_network


class Case(NamedTuple):
    """One benchmark case. bound: GB; batch: batch size of the forward passes."""

    what: str
    arch: str
    classes: int
    images: int
    batch: int
    options: dict[str, Any]
    bound: float


HALF = {"keep": 0.5, "compensation": "weights"}
MANY = HALF | {"reconstruction_images": 18000}
IMAGENET = {"target_macs": 0.5, "score": "frobenius", "compensation": "none"}
CASES = {
    "imagenet": [
        Case("VGG-16 at 224 pixels to 50 % of the MACs, 50 images", "vgg16_imagenet", 1000, 50, 25, IMAGENET, 4)
    ],
    "paused": [
        Case("ResNet-56 with weights re-solved on 1000 images", "resnet56", 10, 1000, 250, HALF, 2.4),
        Case("VGG-16 at 32 pixels with weights re-solved on 500 images", "vgg16", 10, 500, 250, HALF, 1.9),
    ],
    "repeated": [
        Case("LeNet-5 with weights re-solved on 18000 images", "lenet5", 10, 18000, 1000, MANY, 1.1),
    ],
}


class Images:
    """Random images, generated again whenever they are read."""

    def __init__(self, count: int, batch: int, shape: tuple[int, ...]) -> None:
        self.count, self.batch, self.shape = count, batch, shape

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, self.batch):
            size = min(self.batch, self.count - start)
            yield torch.randn(size, *self.shape, generator=generator)


def peak_gb() -> float:
    """Return the largest resident set so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(case: Case, threads: int | None) -> tuple[float, float, float]:
    """Return GB of the process before pruning, GB at the peak, and CPU seconds."""
    set_threads(threads)
    torch.manual_seed(0)
    model = create_model(case.arch, num_classes=case.classes).eval()
    before, start = peak_gb(), time.process_time()
    shape = input_shape(model)
    prune_network(model, torch.zeros(1, *shape), Images(case.images, case.batch, shape), **case.options)
    return before, peak_gb(), time.process_time() - start


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", help="also write the values to this file")
    args = parser.parse_args(argv)
    series: dict[str, list[float]] = {}
    ratios = []
    for case in [case for name in args.cases for case in CASES[name]]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            before, peak, seconds = process.submit(measure, case, args.threads).result()
        for column, value in ("process before, GB", before), ("peak, GB", peak), ("CPU seconds", seconds):
            series[f"{case.what}: {column}"] = [value]
        ratios.append(
            BenchmarkValue(f"{case.what}: peak memory of the process", "", peak, case.bound, at_most=True, unit=" GB")
        )
        verdict = "within" if ratios[-1].reached else "NOT within"
        print(
            f"{case.what}: {before:.2f} GB before, peak {peak:.2f} GB, {verdict} {case.bound:g} GB; {seconds:.1f} CPU s",
            flush=True,
        )
    if args.json:
        write_benchmark(args.json, "python benchmarks/memory.py", "GB", series, ratios)


if __name__ == "__main__":
    sys.exit(main())
