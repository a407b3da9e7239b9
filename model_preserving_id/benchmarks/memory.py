"""Peak memory of pruning VGG-16 at 224 x 224 pixels, all layers, on random weights and pictures: at most 4 GB.

    python benchmarks/memory.py [--pictures 50] [--json results/speed-memory.json]

The resident set of the whole process, torch and the network included, as the system counts it.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from common import cli
from common.device import set_threads
from common.models import create_model
from common.reporting.benchmark import Ratio, write_benchmark
from model_preserving_id import prune_network

BLOCK = 25  # pictures that go through the network at once, as the original's forward_blocksize


class Pictures:
    """Random pictures, drawn anew whenever they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, BLOCK):
            yield torch.randn(min(BLOCK, self.count - start), 3, 224, 224, generator=generator)


def peak_gb() -> float:
    """Largest resident set so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=cli.positive_int, default=50)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    torch.manual_seed(0)
    model = create_model("vgg16_imagenet", num_classes=1000).eval()
    before, start = peak_gb(), time.process_time()
    smaller = prune_network(
        model,
        torch.zeros(1, 3, 224, 224),
        Pictures(args.pictures),
        target_macs=0.5,
        score="frobenius",
        compensation="none",
    )
    series = {"process before, GB": [before], "peak, GB": [peak_gb()], "CPU seconds": [time.process_time() - start]}
    left = sum(p.numel() for p in smaller.parameters()) / sum(p.numel() for p in model.parameters())
    print(f"{args.pictures} pictures: {series}, {left:.3f} of the parameters left")
    ratio = Ratio(
        f"VGG-16 at 224 pixels to half the MACs, {args.pictures} pictures: peak memory of the process",
        "",
        series["peak, GB"][0],
        4.0,
        at_most=True,
        unit=" GB",
    )
    print(f"{ratio.what}: {ratio.value:.2f} GB, {'within' if ratio.reached else 'NOT within'} 4 GB")
    if args.json:
        write_benchmark(args.json, "python benchmarks/memory.py", "GB", series, [ratio])


if __name__ == "__main__":
    sys.exit(main())
