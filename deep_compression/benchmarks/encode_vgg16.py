"""Cluster and encode VGG-16's 138M weights, random and 7.5 % dense: seconds and memory, and the size against xz."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import series
import torch

from deep_compression import kmeans_1d, load_compressed, save_compressed

CONVS = ((64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256), (512, 512), (512, 512),
         (512, 512), (512, 512), (512, 512))  # fmt: skip
LINEARS = ((4096, 25088), (4096, 4096), (1000, 4096))
DENSITY = 0.075


def network() -> dict[str, torch.Tensor]:
    """Weights of which 7.5 % live, Laplace distributed beyond a threshold."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    shapes = [(f"conv{i}", (*s, 3, 3)) for i, s in enumerate(CONVS)] + [(f"fc{i}", s) for i, s in enumerate(LINEARS)]
    for name, shape in shapes:
        weight = torch.zeros(shape)
        living = torch.rand(weight.numel(), generator=generator) < DENSITY
        values = torch.empty(int(living.sum())).exponential_(1 / 0.03, generator=generator) + 0.02
        weight.view(-1)[living] = values * torch.where(torch.rand(len(values), generator=generator) < 0.5, -1.0, 1.0)
        tensors[name] = weight
    return tensors


def body(args) -> list[dict]:
    """138M weights."""
    torch.set_num_threads(2)
    tensors = network()
    start = time.perf_counter()
    for name, weight in tensors.items():
        living = weight != 0
        centroids, labels = kmeans_1d(weight[living], 255 if name.startswith("conv") else 31)
        weight[living] = centroids[labels]
    clustered = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg16.dcz"
        account = save_compressed(path, tensors, arch="vgg16_imagenet")
        encoded = time.perf_counter()
        back = load_compressed(path)
        decoded = time.perf_counter()
    assert all(torch.equal(tensors[n], back[n]) for n in tensors)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = encoded - start
    overhead = sum(size for name, size in account.by_category.items() if not name.startswith("payload"))
    print(f"weights {sum(t.numel() for t in tensors.values()):,}; cluster {clustered - start:.1f} s, encode and check "
          f"{encoded - clustered:.1f} s, decode {decoded - encoded:.1f} s; peak {memory:.2f} GiB, all included")  # fmt: skip
    print(f"file {account.bytes:,} bytes, {account.by_category}")
    return [
        {"what": "VGG-16, 138M weights: cluster and encode, s", "against": "the clock", "ratio": seconds, "floor": "<= 60"},
        {"what": "VGG-16, 138M weights: peak memory, GiB", "against": "the machine", "ratio": memory, "floor": "<= 4"},
        {"what": "VGG-16, 138M weights: overheads, % of the file", "against": "the payload", "floor": "<= 2",
         "ratio": 100 * overhead / account.bytes},
        {"what": "VGG-16, 138M weights: rate", "against": "dense float32", "ratio": account.dense_bytes / account.bytes,
         "floor": "published: 49 (real weights)"},
    ]  # fmt: skip


if __name__ == "__main__":
    series.main("encode_vgg16", body)
