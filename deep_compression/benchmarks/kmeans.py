"""Benchmark of one-dimensional k-means against scikit-learn with the same initialization, and against the optimum (kmeans1d)."""

from __future__ import annotations

import sys

import kmeans1d
import numpy as np
from sklearn.cluster import KMeans

from common.reporting.benchmark import BenchmarkValue, Series, run_benchmark, speedup, time_interleaved
from deep_compression.choices import CENTROID_INITS
from deep_compression.kmeans import inertia, kmeans_1d

NUMBER = 2_000_000


def weights(number: int) -> np.ndarray:
    """Return Laplace-distributed weights without those near zero, as after pruning."""
    values = np.random.default_rng(0).laplace(0, 0.03, 4 * number).astype(np.float32)
    return values[np.abs(values) > 0.02][:number]


def body(repeats: int) -> tuple[Series, list[BenchmarkValue]]:
    """Cluster two million pruned weights, against scikit-learn, and twenty thousand, against the optimum."""
    values, series, ratios = weights(NUMBER), {}, []
    for k in (16, 256):
        start = np.linspace(values.min(), values.max(), k, dtype=np.float32)[:, None]
        fitted = {}

        def theirs(k=k, start=start, fitted=fitted):
            fitted["model"] = KMeans(k, init=start, n_init=1, max_iter=50).fit(values[:, None])

        times = time_interleaved({"ours": lambda k=k: kmeans_1d(values, k), "scikit-learn": theirs}, repeats)
        series |= {f"{name}, k = {k}": milliseconds for name, milliseconds in times.items()}
        ours, other = inertia(values, *kmeans_1d(values, k)), float(fitted["model"].inertia_)
        what, against = f"k-means, 2M weights, k = {k}", "scikit-learn, same initialization"
        ratios.append(BenchmarkValue(f"{what}: speed", against, speedup(times, "ours", "scikit-learn"), 30))
        ratios.append(BenchmarkValue(f"{what}: inertia", against, ours / other, 1.01, at_most=True))
    few = weights(20_000)
    for k, inits in ((16, CENTROID_INITS), (256, ("companded",))):
        labels, centroids = kmeans1d.cluster(few.astype(float), k)
        best = inertia(few, np.array(centroids), np.array(labels))
        worst = max(inertia(few, *kmeans_1d(few, k, init)) / best for init in inits)
        several = "worst of the initializations" if len(inits) > 1 else "initialization"
        against = f"optimum; {several} {', '.join(inits)}"
        ratios.append(BenchmarkValue(f"k-means, 20k weights, k = {k}: inertia", against, worst, 1.1, at_most=True))
    return series, ratios


if __name__ == "__main__":
    sys.exit(run_benchmark(body))
