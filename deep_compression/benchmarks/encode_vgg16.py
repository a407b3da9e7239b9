"""Benchmark of clustering and encoding 138M random weights of VGG-16 at a density of 7.5 %: time, memory and file size."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from common.reporting.benchmark import BenchmarkValue, Series, run_benchmark
from deep_compression import kmeans_1d, load_compressed, save_compressed

CONVS = (
    (64, 3),
    (64, 64),
    (128, 64),
    (128, 128),
    (256, 128),
    (256, 256),
    (256, 256),
    (512, 256),
    (512, 512),
    (512, 512),
    (512, 512),
    (512, 512),
    (512, 512),
)
LINEARS = ((4096, 25088), (4096, 4096), (1000, 4096))
DENSITY = 0.075


def network() -> dict[str, torch.Tensor]:
    """Return weights of which 7.5 % are nonzero, with a Laplace distribution beyond a threshold."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    shapes = [(f"conv{i}", (*s, 3, 3)) for i, s in enumerate(CONVS)] + [(f"fc{i}", s) for i, s in enumerate(LINEARS)]
    for name, shape in shapes:
        weight = torch.zeros(shape)
        remaining = torch.rand(weight.numel(), generator=generator) < DENSITY
        values = torch.empty(int(remaining.sum())).exponential_(1 / 0.03, generator=generator) + 0.02
        weight.view(-1)[remaining] = values * torch.where(torch.rand(len(values), generator=generator) < 0.5, -1.0, 1.0)
        tensors[name] = weight
    return tensors


def body(repeats: int) -> tuple[Series, list[BenchmarkValue]]:
    """Cluster, encode and decode 138M weights once; --repeats is ignored."""
    tensors = network()
    start = time.perf_counter()
    for name, weight in tensors.items():
        remaining = weight != 0
        centroids, labels = kmeans_1d(weight[remaining], 255 if name.startswith("conv") else 31)
        weight[remaining] = centroids[labels]
    clustered = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg16.dcz"
        report = save_compressed(path, tensors, arch="vgg16_imagenet")
        encoded = time.perf_counter()
        back = load_compressed(path)
        decoded = time.perf_counter()
    assert all(torch.equal(tensors[n], back[n]) for n in tensors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    overhead = sum(size for name, size in report.by_category.items() if not name.startswith("payload"))
    print(f"{sum(t.numel() for t in tensors.values()):,} weights; {report.bytes:,} bytes: {report.by_category}")
    what, ratio = "VGG-16, 138M weights", report.dense_bytes / report.bytes
    series = {
        "cluster": [1000 * (clustered - start)],
        "encode, decode and compare": [1000 * (encoded - clustered)],
        "decode": [1000 * (decoded - encoded)],
    }
    return series, [
        BenchmarkValue(f"{what}: time to cluster and encode", "", encoded - start, 60, at_most=True, unit=" s"),
        BenchmarkValue(f"{what}: peak memory of the process", "", peak, 4, at_most=True, unit=" GiB"),
        BenchmarkValue(
            f"{what}: overhead in the file (tables, offsets, headers)",
            "file size",
            100 * overhead / report.bytes,
            2,
            at_most=True,
            unit=" %",
        ),
        BenchmarkValue(
            "VGG-16, 138M random weights: compression ratio (the paper's 49x is for trained weights)",
            "dense float32",
            ratio,
            40,
        ),
    ]


if __name__ == "__main__":
    sys.exit(run_benchmark(body, repeats=1))
