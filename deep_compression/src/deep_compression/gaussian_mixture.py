"""Univariate Gaussian mixtures: the clustering methods `GMM` and `GMM-kmeans` of emedinac/DeepCompression.

`GMM` fits k Gaussians by expectation maximization (EM) and assigns each value to its most likely component.
`GMM-kmeans` determines the number of clusters as the number of components that survive a short EM run from wide Gaussians,
and then runs k-means. Both work on a histogram with exact cell means, so an EM step costs O(cells x k) instead of O(n k).
"""

from __future__ import annotations

import numpy as np

from deep_compression.kmeans import kmeans_1d

CELLS = 4096
GMM_STEPS = 50
SURVIVAL_STEPS = 10
WIDE = 9.0  # initial variance of each component of GMM-kmeans, relative to total variance / k^2


def gmm_1d(values, k: int, *, steps: int = GMM_STEPS):
    """Cluster real values by a Gaussian mixture, fitted by expectation maximization on a histogram.

    Components without values are dropped, so clusters are never empty.

    Args:
        values: Real numbers of any shape; NumPy array or torch tensor.
        k: Number of components, at least 1.
        steps: Number of EM iterations.

    Returns:
        Centroids (at most k), the means of the clusters' values, ascending, and labels of the values' shape, int64.

    Raises:
        ValueError: If ``k`` is less than 1 or values are not finite.
    """
    array = _array(values)
    if len(np.unique(array)) <= k:
        return kmeans_1d(values, k)
    cell, position, weight = _histogram(array)
    winner = _fit(position, weight, k, steps, wide=1.0).argmax(axis=1)
    return _grouped(values, array, winner[cell])


def gmm_kmeans_1d(values, k: int, *, init: str = "density"):
    """Cluster real values by k-means with as many clusters as mixture components survive a short EM run.

    Args:
        values: Real numbers of any shape; NumPy array or torch tensor.
        k: Initial number of components, at least 1.
        init: Initialization of k-means.

    Returns:
        Centroids (at most k), ascending, and labels of the values' shape, int64, as :func:`kmeans_1d`.

    Raises:
        ValueError: If ``k`` is less than 1, the initialization is unknown, or values are not finite.
    """
    array = _array(values)
    if len(np.unique(array)) <= k:
        return kmeans_1d(values, k, init)
    _, position, weight = _histogram(array)
    winner = _fit(position, weight, k, SURVIVAL_STEPS, wide=WIDE).argmax(axis=1)
    return kmeans_1d(values, len(np.unique(winner)), init)


def _array(values) -> np.ndarray:
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values, np.float64)
    kmeans_1d(array[:0], 1)
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError("values must be finite; found NaN or infinity")
    return array.ravel()


def _histogram(array):
    """Return the cell of each value, and the mean and number of the values in each nonempty cell."""
    low, high = array.min(), array.max()
    cell = np.minimum(((array - low) / (high - low) * CELLS).astype(np.int64), CELLS - 1)
    number = np.bincount(cell, minlength=CELLS)
    used = np.flatnonzero(number)
    rank = np.zeros(CELLS, np.int64)
    rank[used] = np.arange(len(used))
    sums = np.bincount(cell, weights=array, minlength=CELLS)[used]
    return rank[cell], sums / number[used], number[used].astype(np.float64)


def _fit(position, weight, k, steps, wide):
    """Return log(weight x density) of each component at each cell (cells, k) after EM, initialized at quantiles."""
    total = weight.sum()
    scale = np.sqrt(np.average((position - np.average(position, weights=weight)) ** 2, weights=weight)) or 1.0
    x = position / scale
    upto = np.cumsum(weight)
    mean = x[np.minimum(upto.searchsorted((np.arange(k) + 0.5) / k * total), len(x) - 1)]
    variance = np.full(k, wide / k**2)
    mixing = np.full(k, 1.0 / k)
    floor = 1e-12
    for step in range(steps + 1):
        log = np.log(mixing) - 0.5 * (np.log(variance) + (x[:, None] - mean) ** 2 / variance)
        if step == steps:
            return log
        part = np.exp(log - log.max(axis=1, keepdims=True))
        part *= (weight / part.sum(axis=1))[:, None]
        held = part.sum(axis=0) + 1e-300
        mean = (part * x[:, None]).sum(axis=0) / held
        variance = (part * (x[:, None] - mean) ** 2).sum(axis=0) / held + floor
        mixing = held / held.sum()
    raise AssertionError("unreachable")


def _grouped(values, array, labels):
    """Return the mean of each nonempty group, ascending, and the matching labels."""
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
