"""1-D k-means against scikit-learn from the same start, and against the optimum (kmeans1d)."""

from __future__ import annotations

import numpy as np
import series
from sklearn.cluster import KMeans

from deep_compression.kmeans import INITS, inertia, kmeans_1d

NUMBER = 2_000_000


def weights(number: int) -> np.ndarray:
    """Laplace weights with the hole around zero that pruning leaves."""
    values = np.random.default_rng(0).laplace(0, 0.03, 4 * number).astype(np.float32)
    return values[np.abs(values) > 0.02][:number]


def body(args) -> list[dict]:
    """k-means on two million pruned weights."""
    import kmeans1d

    values, rows = weights(NUMBER), []
    for k in (16, 256):
        start = np.linspace(values.min(), values.max(), k, dtype=np.float32)[:, None]
        fitted = {}

        def theirs(k=k, start=start, fitted=fitted):
            fitted["model"] = KMeans(k, init=start, n_init=1, max_iter=50).fit(values[:, None])

        times = series.interleaved({"ours": lambda k=k: kmeans_1d(values, k), "scikit-learn": theirs}, args.repeats)
        series.show(f"k = {k}, linear start", times)
        ours, other = inertia(values, *kmeans_1d(values, k)), float(fitted["model"].inertia_)
        what = {"what": f"k-means, 2M weights, k = {k}: speed", "against": "scikit-learn, same start"}
        rows.append({**what, "ratio": series.ratio(times, "ours", "scikit-learn"), "floor": ">= 30", "series": times})
        what = {"what": f"k-means, 2M weights, k = {k}: inertia", "against": "scikit-learn, same start"}
        rows.append({**what, "ratio": ours / other, "floor": "<= 1.01"})
    few = weights(20_000)
    for k, inits in ((16, INITS), (256, ("companded",))):
        labels, centroids = kmeans1d.cluster(few.astype(float), k)
        best = inertia(few, np.array(centroids), np.array(labels))
        worst = max(inertia(few, *kmeans_1d(few, k, init)) / best for init in inits)
        what = {"what": f"k-means, 20k weights, k = {k}: inertia", "against": f"optimum, starts {', '.join(inits)}"}
        rows.append({**what, "ratio": worst, "floor": "<= 1.1"})
    return rows


if __name__ == "__main__":
    series.main("kmeans", body)
