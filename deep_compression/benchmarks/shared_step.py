"""Benchmark of a training step of shared weights (centroids) at a density of 10 % against a plain step."""

from __future__ import annotations

import sys

import torch

from common.models import create_model
from common.reporting.benchmark import BenchmarkValue, Series, run_benchmark, speedup, time_interleaved
from deep_compression.pruning import PruningMaskHook, masks_by_density, prunable_weights
from deep_compression.sharing import CentroidTraining, cluster_counts, create_clusterer, share_network

CASES = (("lenet300_100", 50, (1, 28, 28), 200), ("resnet20", 128, (3, 32, 32), 1))
DENSITY = 0.1


def stepper(arch: str, batch: int, shape: tuple[int, ...], steps: int, shared: bool):
    """Return a function that runs `steps` steps of SGD with momentum and weight decay."""
    torch.manual_seed(0)
    model = create_model(arch).to(memory_format=torch.channels_last)
    PruningMaskHook(model, masks_by_density(prunable_weights(model), DENSITY))
    training = None
    if shared:
        clusters = cluster_counts(model, {"conv": 8, "fc": 5})
        training = CentroidTraining(model, share_network(model, clusters, create_clusterer()))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            if training:
                training.after_backward()
            optimizer.step()
            if training:
                training.after_step()

    return run


def body(repeats: int) -> tuple[Series, list[BenchmarkValue]]:
    """Measure the time of a training step of shared weights against a plain step."""
    series, ratios = {}, []
    for arch, batch, shape, steps in CASES:
        sides = {"plain": stepper(arch, batch, shape, steps, False), "shared": stepper(arch, batch, shape, steps, True)}
        times = time_interleaved(sides, repeats)
        series |= {f"{name}, {arch}": milliseconds for name, milliseconds in times.items()}
        what = f"step with shared weights, {arch}, batch {batch}, 10 % dense: time"
        ratios.append(BenchmarkValue(what, "plain step", speedup(times, "plain", "shared"), 1.3, at_most=True))
    return series, ratios


if __name__ == "__main__":
    sys.exit(run_benchmark(body))
