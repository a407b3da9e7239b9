"""One-dimensional k-means for weight sharing (Deep Compression, arXiv 1510.00149, section 3).

The values are sorted once. In one dimension a cluster is an interval of the sorted values, so a Lloyd iteration needs only
the positions of the k-1 midpoints (binary search) and differences of prefix sums: O(k log n) instead of O(n k).
After Lloyd's algorithm has converged, centroids are relocated: two adjacent clusters are merged and a wider one is split,
which Lloyd's algorithm alone cannot do, and it continues from there. Every relocation and iteration lowers the inertia.

The initializations are those of section 3.2, `linear`, `density` and `forgy`, and `companded` (quantiles of the density to
the power 1/3, the asymptotically optimal spacing of a scalar quantizer).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deep_compression.choices import CENTROID_INITS

BINS = 1 << 17  # cells of the grid
BINNED_FROM = 400_000  # number of values from which binning is faster than sorting
BINNED_EXCESS = 1e-3  # largest relative increase of the inertia that the grid may cause
EXACT_WORK = 1 << 24  # largest k x points^2 for which the optimum is computed
LLOYD_STEPS = 2000  # largest number of iterations per call of the solver, with relocation
CONVERGED = 10_000  # largest number without relocation; they end when no value changes its cluster
RELOCATION_ROUNDS = 100  # largest number of relocation rounds


@dataclass(frozen=True)
class Points:
    """Distinct positions in ascending order, and prefix sums of the values at them.

    Attributes:
        position: Positions (P,), float64.
        count: Number of values before each position (P+1,), float64.
        total: Sum of the values before each position (P+1,), float64.
    """

    position: np.ndarray
    count: np.ndarray
    total: np.ndarray

    def boundaries(self, centroids: np.ndarray) -> np.ndarray:
        """Return the boundaries (k+1,) of the intervals nearest to each of the ascending centroids (k,)."""
        inner = self.position.searchsorted((centroids[1:] + centroids[:-1]) * 0.5)
        return np.concatenate(([0], inner, [len(self.position)]))

    def sums(self, boundaries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number and the sum of the values in each interval."""
        return np.diff(self.count[boundaries]), np.diff(self.total[boundaries])


def kmeans_1d(
    values: Any, k: int, init: str = "linear", *, seed: int = 0, steps: int | None = None, relocate: bool = True
) -> tuple[Any, Any]:
    """Cluster real values by one-dimensional k-means (Deep Compression, section 3).

    Deterministic for a given seed. Clusters are never empty: with at most k distinct values, each is a centroid and the
    inertia is zero.

    Args:
        values: Real numbers of any shape; NumPy array or torch tensor.
        k: Largest number of clusters, at least 1.
        init: Initialization: ``"linear"``, ``"density"``, ``"forgy"`` (section 3.2) or ``"companded"``.
        seed: Random seed of ``"forgy"``.
        steps: Largest number of Lloyd iterations; None: until convergence. With ``"linear"``, few iterations keep the
            centroids almost equally spaced: the error is larger, but the entropy of the labels is lower, so they compress
            better.
        relocate: Whether to move centroids without values, and after convergence those that contribute little, to where they
            reduce the inertia most. With False, as in the paper, centroids without values are dropped: there may be fewer than k.

    Returns:
        Centroids (k,), ascending, and labels of the values' shape, int64; torch tensors if ``values`` is one.

    Raises:
        ValueError: If ``k`` is less than 1, the initialization is unknown, or values are not finite.
    """
    if hasattr(values, "detach"):
        return _tensors(values, k, init, seed, steps, relocate)
    values = np.asarray(values)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k must be an integer of at least 1, not {k!r}")
    if steps is not None and not 0 <= steps <= 1_000_000:
        raise ValueError(f"steps must be in 0..1000000, not {steps!r}")
    if init not in CENTROID_INITS:
        raise ValueError(f"unknown init {init!r}; known: {', '.join(CENTROID_INITS)}")
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        raise ValueError(f"values must be real numbers, not {values.dtype}")
    flat = values.ravel()
    if flat.dtype == np.float16:
        flat = flat.astype(np.float32)
    if flat.size == 0:
        return np.zeros(0, values.dtype), np.zeros(values.shape, np.int64)
    low, high = float(flat.min()), float(flat.max())  # not finite if a value is not
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("values must be finite; found NaN or infinity")
    solver = partial(solve, k=int(k), init=init, seed=seed, steps=steps, relocate=relocate)
    found = _on_grid(flat, low, high, int(k), solver) if flat.size >= BINNED_FROM else None
    centroids, labels = found or _on_sorted(flat, int(k), solver)
    return centroids.astype(values.dtype), labels.reshape(values.shape)


def inertia(values, centroids, labels) -> float:
    """Return the within-cluster sum of squares."""
    values, centroids = (np.asarray(x, np.float64) for x in (values, centroids))
    return float(np.square(values - centroids[np.asarray(labels)]).sum())


def _tensors(values, k, init, seed, steps, relocate):
    import torch

    array = values.detach().cpu()
    array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
    centroids, labels = kmeans_1d(array, k, init, seed=seed, steps=steps, relocate=relocate)
    dtype = values.dtype if values.is_floating_point() else torch.float64
    return torch.from_numpy(centroids).to(values.device, dtype), torch.from_numpy(labels).to(values.device)


# ------------------------------------------------------------------------------------------------- exact and grid points


def _on_sorted(flat, k, solver):
    """Cluster exactly, with every distinct value as a point."""
    ordered = np.sort(flat)
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = np.flatnonzero(first)
    distinct = ordered[starts]
    if len(distinct) <= k:
        return distinct, np.searchsorted(distinct, flat)
    scaled, shift, scale = _scaled(ordered)
    total = np.concatenate(([0.0], np.cumsum(scaled)))
    count = np.concatenate((starts, [len(ordered)])).astype(np.float64)
    points = Points(scaled[starts], count, total[np.concatenate((starts, [len(ordered)]))])
    boundaries = solver(points)
    number, sums = points.sums(boundaries)
    labels = np.searchsorted(distinct[boundaries[1:-1]], flat, side="right")
    means = _means(number, sums, shift, scale)
    # Rounding errors of the prefix sums may move the mean of equal values outside their range.
    return np.clip(means, distinct[boundaries[:-1]], distinct[boundaries[1:] - 1]), labels


def _on_grid(flat, low, high, k, solver):
    """Cluster on a fine grid whose cells hold the exact number and sum of their values; None if the grid is too coarse.

    Only the boundaries are rounded to cells. A bound on the resulting excess inertia is compared with BINNED_EXCESS.
    """
    if flat.dtype not in (np.float32, np.float64) or not high > low:
        return None
    with np.errstate(over="ignore", divide="ignore"):
        per_unit = flat.dtype.type(BINS / (high - low))
        if not (np.isfinite(per_unit) and np.isfinite(flat.dtype.type(high - low))):
            return None
    shift = 0.5 * (low + high)
    cell = ((flat - flat.dtype.type(low)) * per_unit).astype(np.int32)
    np.minimum(cell, BINS - 1, out=cell)
    number = np.bincount(cell, minlength=BINS)
    sums = np.bincount(cell, weights=flat, minlength=BINS) - number * shift
    used = np.flatnonzero(number)
    if len(used) < 8 * k:
        return None
    weight, total = number[used].astype(np.float64), sums[used] / (high - low)
    points = Points(
        total / weight, np.concatenate(([0.0], np.cumsum(weight))), np.concatenate(([0.0], np.cumsum(total)))
    )
    boundaries = solver(points)
    count, total = points.sums(boundaries)
    center = total / count
    between = float((weight * points.position**2).sum() - (count * center**2).sum())
    at_boundary = np.maximum(weight[boundaries[1:-1]], weight[boundaries[1:-1] - 1])
    if not (at_boundary * np.diff(center)).sum() / BINS <= BINNED_EXCESS * between:
        return None
    table = np.zeros(BINS, np.int64)
    table[used[boundaries[1:-1]]] = 1
    return _means(count, total, shift, high - low), np.cumsum(table).take(cell)


def _scaled(ordered):
    """Return a float64 copy, centered and divided by half its range, so that sums of squares neither overflow nor cancel."""
    scale = float(ordered[-1]) * 0.5 - float(ordered[0]) * 0.5
    scaled = ordered.astype(np.float64) / scale
    shift = float(scaled.mean())
    return scaled - shift, shift * scale, scale


def _means(number, sums, shift, scale):
    return sums / number * scale + shift


# ----------------------------------------------------------------------------------------------------------------- solver


def solve(points: Points, k: int, init: str, seed: int, steps: int | None, relocate: bool = True) -> np.ndarray:
    """Return the boundaries (k+1,) of k nonempty intervals, without relocation of at most k; requires more than k points."""
    boundaries = points.boundaries(INITIALIZERS[init](points, k, seed))
    if not relocate:
        return lloyd(points, np.unique(boundaries), CONVERGED if steps is None else steps, relocate=False)
    boundaries = lloyd(points, _repair(points, boundaries, k), LLOYD_STEPS if steps is None else steps)
    if steps is not None or k == 1:
        return boundaries
    if k * len(points.position) ** 2 <= EXACT_WORK:
        return _optimal(points, k)
    return _best_two(points) if k == 2 else _relocate_until_stable(points, boundaries)


def _optimal(points: Points, k: int) -> np.ndarray:
    """Find the optimal partition by dynamic programming, for small layers: O(k P^2)."""
    n = np.diff(points.count)
    square = np.concatenate(([0.0], np.cumsum(n * points.position**2)))
    with np.errstate(divide="ignore", invalid="ignore"):  # cost[a, b]: inertia of the points a..b-1 as one cluster
        mean = np.subtract.outer(points.total, points.total) ** 2 / -np.subtract.outer(points.count, points.count)
        cost = -np.subtract.outer(square, square) - mean
    cost[np.tril_indices(len(cost))] = np.inf
    best, back = cost[0], []
    for _ in range(k - 1):
        through = best[:, None] + cost
        back.append(np.argmin(through, axis=0))
        best = through[back[-1], np.arange(len(best))]
    boundaries = [len(points.position)]
    for row in reversed(back):
        boundaries.append(int(row[boundaries[-1]]))
    return np.array([0, *reversed(boundaries)])


def _best_two(points: Points) -> np.ndarray:
    """Find the optimal partition into two intervals by trying every boundary."""
    left_n, left_s = points.count[1:-1], points.total[1:-1]
    gain = left_s**2 / left_n + (points.total[-1] - left_s) ** 2 / (points.count[-1] - left_n)
    return np.array([0, int(np.argmax(gain)) + 1, len(points.position)])


def _relocate_until_stable(points: Points, boundaries: np.ndarray) -> np.ndarray:
    """Relocate centroids: first all relocations that help at once, then single ones that help after Lloyd iterations."""
    for _ in range(RELOCATION_ROUNDS):
        for _ in range(RELOCATION_ROUNDS):
            moved = _relocated(points, boundaries)
            if moved is None:
                break
            boundaries = lloyd(points, moved, 30)
        boundaries = lloyd(points, boundaries, LLOYD_STEPS)
        for tried, scale in _trials(points, boundaries):
            tried = lloyd(points, tried, 60)
            if improvement(points, boundaries, tried) > 1e-6 * scale:
                boundaries = tried
                break
        else:
            return boundaries
    return lloyd(points, boundaries, LLOYD_STEPS)


def lloyd(points: Points, boundaries: np.ndarray, steps: int, relocate: bool = True) -> np.ndarray:
    """Alternate means and nearest intervals until convergence, for at most `steps` iterations; drop or relocate empty intervals."""
    k = len(boundaries) - 1
    for _ in range(steps):
        number, sums = points.sums(boundaries)
        new = points.boundaries(sums / number)
        if (new[1:] == new[:-1]).any():
            new = _repair(points, new, k) if relocate else np.unique(new)
        if np.array_equal(new, boundaries):
            break
        boundaries = new
    return boundaries


def improvement(points: Points, old: np.ndarray, new: np.ndarray) -> float:
    """Return the decrease of the inertia from one partition to another; the sums skip clusters that both contain."""
    gained = 0.0
    for boundaries, other, sign in ((old, new, -1), (new, old, 1)):
        at = np.minimum(other.searchsorted(boundaries[:-1]), len(other) - 2)
        changed = (other[at] != boundaries[:-1]) | (other[at + 1] != boundaries[1:])
        number, sums = points.sums(boundaries)
        gained += sign * float((sums[changed] ** 2 / number[changed]).sum())
    return gained


def _repair(points: Points, boundaries: np.ndarray, k: int) -> np.ndarray:
    """Drop empty intervals, then split the clusters with the largest gain until there are k."""
    boundaries = np.unique(boundaries)
    while len(boundaries) - 1 < k:
        gain, where = _best_splits(points, boundaries)
        missing = k - (len(boundaries) - 1)
        chosen = np.argsort(-gain, kind="stable")[:missing]
        chosen = chosen[where[chosen] > boundaries[chosen]]
        boundaries = np.sort(np.concatenate((boundaries, where[chosen])))
    return boundaries


def _best_splits(points: Points, boundaries: np.ndarray, tries: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each interval, the best of several split points: (decrease of the inertia, boundary); -1 for a single point."""
    first, last = boundaries[:-1], boundaries[1:] - 1
    low, high = points.position[first], points.position[last]
    part = (np.arange(1, tries + 1) / (tries + 1))[None]
    by_value = points.position.searchsorted((low[:, None] + (high - low)[:, None] * part).ravel()).reshape(-1, tries)
    by_rank = first[:, None] + np.round((last - first)[:, None] * part).astype(np.int64)
    splits = np.concatenate((by_value, by_rank), axis=1)
    splits = np.clip(splits, first[:, None] + 1, np.maximum(last, first + 1)[:, None])
    single = first == last
    splits = np.minimum(splits, len(points.position) - 1)
    left_n = points.count[splits] - points.count[first][:, None]
    left_s = points.total[splits] - points.total[first][:, None]
    number, sums = (x[:, None] for x in points.sums(boundaries))
    right_n = number - left_n
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = left_n * right_n / number * (left_s / left_n - (sums - left_s) / right_n) ** 2
    gain[single] = -1.0
    best = np.argmax(gain, axis=1)
    rows = np.arange(len(first))
    return gain[rows, best], np.where(single, first, splits[rows, best])


def _merge_costs(points: Points, boundaries: np.ndarray) -> np.ndarray:
    """Return the increase of the inertia from merging each interval with the next one (k-1,)."""
    number, sums = points.sums(boundaries)
    return number[1:] * number[:-1] / (number[1:] + number[:-1]) * np.diff(sums / number) ** 2


def _relocated(points: Points, boundaries: np.ndarray) -> np.ndarray | None:
    """Merge adjacent clusters at a low cost and split others with a higher gain, on disjoint clusters; None if none helps."""
    cost, (gain, where) = _merge_costs(points, boundaries), _best_splits(points, boundaries)
    busy = np.zeros(len(boundaries) - 1, bool)
    drop, add = [], []
    merges = iter(np.argsort(cost, kind="stable"))
    for i in np.argsort(-gain, kind="stable"):
        if busy[i]:
            continue
        j = next((j for j in merges if not (busy[j] or busy[j + 1] or i in (j, j + 1))), None)
        if j is None or gain[i] <= cost[j] * (1 + 1e-6):
            break
        busy[[i, j, j + 1]] = True
        drop.append(j + 1)
        add.append(where[i])
    return np.sort(np.concatenate((np.delete(boundaries, drop), add))) if add else None


def _trials(points: Points, boundaries: np.ndarray, width: int = 4) -> Iterator[tuple[np.ndarray, float]]:
    """Yield partitions after one of the best splits and one of the cheapest merges, with the sum of gain and cost."""
    cost, (gain, where) = _merge_costs(points, boundaries), _best_splits(points, boundaries)
    for i in np.argsort(-gain, kind="stable")[:width]:
        for j in np.argsort(cost, kind="stable")[:width]:
            if i not in (j, j + 1) and gain[i] > 0:
                yield np.sort(np.append(np.delete(boundaries, j + 1), where[i])), float(gain[i] + cost[j])


# --------------------------------------------------------------------------------------------------------- initialization


def _linear(points, k, seed):
    """Space centroids equally from the smallest to the largest value."""
    return np.linspace(points.position[0], points.position[-1], k)


def _density(points, k, seed):
    """Take equally spaced levels of the cumulative distribution."""
    return _quantiles(points.position, points.count[1:], k)


def _forgy(points, k, seed):
    """Choose k of the values at random."""
    ranks = np.random.default_rng(seed).choice(int(points.count[-1]), size=k, replace=False)
    return np.sort(points.position[points.count.searchsorted(ranks, side="right") - 1])


def _companded(points, k, seed):
    """Take quantiles of the density to the power 1/3, on a histogram."""
    bins = min(8192, max(64, len(points.position) // 16))
    edges = np.linspace(points.position[0], points.position[-1], bins + 1)
    below = points.count[points.position.searchsorted(edges[1:-1])]
    mass = np.diff(np.concatenate(([0.0], below, [points.count[-1]])))
    level = np.concatenate(([0.0], np.cumsum(np.cbrt(mass))))
    return np.interp((np.arange(k) + 0.5) / k * level[-1], level, edges)


def _quantiles(position, upto, k):
    levels = (np.arange(k) + 0.5) / k * upto[-1]
    return position[np.minimum(upto.searchsorted(levels), len(position) - 1)]


INITIALIZERS = {"linear": _linear, "density": _density, "forgy": _forgy, "companded": _companded}
