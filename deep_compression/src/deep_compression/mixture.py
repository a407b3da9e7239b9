"""Gaussian mixtures of one variable: the clusterers `GMM` and `GMM-kmeans` of emedinac/DeepCompression.

`GMM` fits k Gaussians by expectation maximisation and gives each value to its most likely component.
`GMM-kmeans` calls itself non-parametric: a short run from wide Gaussians says how many components survive, and that many
clusters are then made by k-means. Both work on a histogram of exact cell means, so a step costs cells x k and not n x k.
"""

from __future__ import annotations

import numpy as np

from deep_compression.kmeans import kmeans_1d

CELLS = 4096
GMM_STEPS = 50
SURVIVAL_STEPS = 10
WIDE = 9.0  # the variance of each starting component of GMM-kmeans, in variances of an even share of the values


def gmm_1d(values, k: int, *, steps: int = GMM_STEPS):
    """At most k centroids (means of the members, ascending) and the labels, int64, of the values' shape.

    Components that win no value are dropped, so no cluster is empty. Raises ValueError as `kmeans_1d` does.
    """
    array = _array(values)
    if len(np.unique(array)) <= k:
        return kmeans_1d(values, k)
    cell, place, weight = _histogram(array)
    winner = _fit(place, weight, k, steps, wide=1.0).argmax(axis=1)
    return _grouped(values, array, winner[cell])


def gmm_kmeans_1d(values, k: int, *, init: str = "density"):
    """k-means with as many clusters as components survive a short fit that starts with k; returns as `kmeans_1d`."""
    array = _array(values)
    if len(np.unique(array)) <= k:
        return kmeans_1d(values, k, init)
    _, place, weight = _histogram(array)
    winner = _fit(place, weight, k, SURVIVAL_STEPS, wide=WIDE).argmax(axis=1)
    return kmeans_1d(values, len(np.unique(winner)), init)


def _array(values) -> np.ndarray:
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values, np.float64)
    kmeans_1d(array[:0], 1)
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError("values must be finite; found NaN or infinity")
    return array.ravel()


def _histogram(array):
    """Cell of each value, and mean and number of the values of each used cell."""
    low, high = array.min(), array.max()
    cell = np.minimum(((array - low) / (high - low) * CELLS).astype(np.int64), CELLS - 1)
    number = np.bincount(cell, minlength=CELLS)
    used = np.flatnonzero(number)
    rank = np.zeros(CELLS, np.int64)
    rank[used] = np.arange(len(used))
    sums = np.bincount(cell, weights=array, minlength=CELLS)[used]
    return rank[cell], sums / number[used], number[used].astype(np.float64)


def _fit(place, weight, k, steps, wide):
    """Log of share x density of each component at each cell (cells, k), after expectation maximisation from quantiles."""
    total = weight.sum()
    scale = np.sqrt(np.average((place - np.average(place, weights=weight)) ** 2, weights=weight)) or 1.0
    x = place / scale
    upto = np.cumsum(weight)
    mean = x[np.minimum(upto.searchsorted((np.arange(k) + 0.5) / k * total), len(x) - 1)]
    variance = np.full(k, wide / k**2)
    share = np.full(k, 1.0 / k)
    floor = 1e-12
    for step in range(steps + 1):
        log = np.log(share) - 0.5 * (np.log(variance) + (x[:, None] - mean) ** 2 / variance)
        if step == steps:
            return log
        part = np.exp(log - log.max(axis=1, keepdims=True))
        part *= (weight / part.sum(axis=1))[:, None]
        held = part.sum(axis=0) + 1e-300
        mean = (part * x[:, None]).sum(axis=0) / held
        variance = (part * (x[:, None] - mean) ** 2).sum(axis=0) / held + floor
        share = held / held.sum()
    raise AssertionError("unreachable")


def _grouped(values, array, labels):
    """Means of the members of each group, ascending, without the empty ones, and labels to match."""
    number = np.bincount(labels)
    mean = np.bincount(labels, weights=array) / np.maximum(number, 1)
    order = np.argsort(np.where(number > 0, mean, np.inf), kind="stable")[: np.count_nonzero(number)]
    rank = np.zeros(len(number), np.int64)
    rank[order] = np.arange(len(order))
    labels = rank[labels].reshape(tuple(values.shape) if hasattr(values, "shape") else np.shape(values))
    if hasattr(values, "detach"):
        import torch

        return torch.from_numpy(mean[order]).to(values.device, values.dtype), torch.from_numpy(labels).to(values.device)
    dtype = values.dtype if isinstance(values, np.ndarray) and values.dtype.kind == "f" else np.float64
    return mean[order].astype(dtype), labels
