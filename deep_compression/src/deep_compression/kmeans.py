"""One-dimensional k-means for weight sharing (Deep Compression, arXiv 1510.00149, section 3).

The values are put in order once. In one dimension a cluster is an interval of that order, so a Lloyd step needs only the
places of the k-1 midpoints (binary search) and differences of prefix sums: O(k log n) instead of O(n k).
After Lloyd has settled, centroids that are misplaced (two share what one could hold, while another cluster is too wide) are
moved, which Lloyd alone cannot do, and Lloyd goes on. Every move and every step lowers the inertia.

The starts are those of section 3.2, `linear`, `density` and `forgy`, and `companded` (quantiles of the density to the
power 1/3, the asymptotically best spacing of a scalar quantiser).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deep_compression.choices import INITS

BINS = 1 << 17  # grid of the fast path
BINNED_FROM = 400_000  # below this many values, sorting them is as fast as binning
BINNED_EXCESS = 1e-3  # largest share of inertia that the grid may cost
EXACT_WORK = 1 << 24  # k x places^2 up to which the optimum is computed
LLOYD_STEPS = 2000  # at most, per call of the solver
MOVE_ROUNDS = 100  # rounds of moved centroids, at most


@dataclass(frozen=True)
class Points:
    """Distinct places in ascending order with the weight (number of values) at each, as prefix sums.

    place (P,) float64, count (P+1,) and total (P+1,) float64: number and sum of the values before each place.
    """

    place: np.ndarray
    count: np.ndarray
    total: np.ndarray

    def cuts(self, centroids: np.ndarray) -> np.ndarray:
        """Limits (k+1,) of the intervals nearest to each of the ascending centroids (k,)."""
        inner = self.place.searchsorted((centroids[1:] + centroids[:-1]) * 0.5)
        return np.concatenate(([0], inner, [len(self.place)]))

    def sums(self, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number and sum of the values in each interval."""
        return np.diff(self.count[cuts]), np.diff(self.total[cuts])


def kmeans_1d(values, k: int, init: str = "linear", *, seed: int = 0, steps: int | None = None):
    """Cluster values (any shape) into at most k groups; returns (centroids ascending, labels of the values' shape, int64).

    No cluster is ever empty: when there are k distinct values or fewer, each is a centroid and the inertia is zero.
    NumPy in, NumPy out; a torch tensor gives tensors. Deterministic; `seed` is used by `forgy` only.
    steps: so many plain Lloyd steps from the start, as in the paper; None goes on, with moves, until nothing improves.
    From `linear`, few steps keep the centroids nearly equally spaced: more error, but indices that code shorter.
    Raises ValueError for k < 1, an unknown start, or values that are not finite.
    """
    if hasattr(values, "detach"):
        return _tensors(values, k, init, seed, steps)
    values = np.asarray(values)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, not {k!r}")
    if steps is not None and not 0 <= steps <= 1_000_000:
        raise ValueError(f"steps must be a number from 0 to a million, not {steps!r}")
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}; known: {', '.join(INITS)}")
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        raise ValueError(f"values must be real numbers, not {values.dtype}")
    flat = values.ravel()
    if flat.dtype == np.float16:
        flat = flat.astype(np.float32)
    if flat.size == 0:
        return np.zeros(0, values.dtype), np.zeros(values.shape, np.int64)
    low, high = float(flat.min()), float(flat.max())  # NaN and infinity show here
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("values must be finite; found NaN or infinity")
    found = _on_grid(flat, low, high, int(k), init, seed, steps) if flat.size >= BINNED_FROM else None
    centroids, labels = found or _on_sorted(flat, int(k), init, seed, steps)
    return centroids.astype(values.dtype), labels.reshape(values.shape)


def inertia(values, centroids, labels) -> float:
    """Within-cluster sum of squares."""
    values, centroids = (np.asarray(x, np.float64) for x in (values, centroids))
    return float(np.square(values - centroids[np.asarray(labels)]).sum())


def _tensors(values, k, init, seed, steps):
    import torch

    array = values.detach().cpu()
    array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
    centroids, labels = kmeans_1d(array, k, init, seed=seed, steps=steps)
    dtype = values.dtype if values.is_floating_point() else torch.float64
    return torch.from_numpy(centroids).to(values.device, dtype), torch.from_numpy(labels).to(values.device)


# ------------------------------------------------------------------------------------------------- exact and grid points


def _on_sorted(flat, k, init, seed, steps):
    """Exact: every distinct value is a place of its own."""
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
    cuts = solve(points, k, init, seed, steps)
    number, sums = points.sums(cuts)
    labels = np.searchsorted(distinct[cuts[1:-1]], flat, side="right")
    means = _means(number, sums, shift, scale)
    # Rounding of the running sums may carry the mean of equal values past them.
    return np.clip(means, distinct[cuts[:-1]], distinct[cuts[1:] - 1]), labels


def _on_grid(flat, low, high, k, init, seed, steps):
    """The same on a fine grid, each cell holding its members' exact number and sum; None when the grid is too coarse.

    Only the cuts are rounded to cells; what that can cost is bounded and compared with BINNED_EXCESS.
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
    cuts = solve(points, k, init, seed, steps)
    count, total = points.sums(cuts)
    centre = total / count
    between = float((weight * points.place**2).sum() - (count * centre**2).sum())
    at_cut = np.maximum(weight[cuts[1:-1]], weight[cuts[1:-1] - 1])
    if not (at_cut * np.diff(centre)).sum() / BINS <= BINNED_EXCESS * between:
        return None
    table = np.zeros(BINS, np.int64)
    table[used[cuts[1:-1]]] = 1
    return _means(count, total, shift, high - low), np.cumsum(table).take(cell)


def _scaled(ordered):
    """Float64 copy less its mean and divided by its range, so that sums of squares neither overflow nor cancel."""
    scale = float(ordered[-1]) * 0.5 - float(ordered[0]) * 0.5
    scaled = ordered.astype(np.float64) / scale
    shift = float(scaled.mean())
    return scaled - shift, shift * scale, scale


def _means(number, sums, shift, scale):
    return sums / number * scale + shift


# ----------------------------------------------------------------------------------------------------------------- solver


def solve(points: Points, k: int, init: str, seed: int, steps: int | None) -> np.ndarray:
    """Limits (k+1,) of k non-empty intervals; needs more than k places."""
    cuts = _repair(points, points.cuts(START[init](points, k, seed)), k)
    cuts = lloyd(points, cuts, LLOYD_STEPS if steps is None else steps)
    if steps is not None or k == 1:
        return cuts
    if k * len(points.place) ** 2 <= EXACT_WORK:
        return _optimal(points, k)
    return _best_of_two(points) if k == 2 else _settle(points, cuts)


def _optimal(points: Points, k: int) -> np.ndarray:
    """Dynamic programme over all partitions, for small layers: O(k P^2)."""
    n = np.diff(points.count)
    square = np.concatenate(([0.0], np.cumsum(n * points.place**2)))
    with np.errstate(divide="ignore", invalid="ignore"):  # cost[a, b]: inertia of the places a..b-1 as one cluster
        mean = np.subtract.outer(points.total, points.total) ** 2 / -np.subtract.outer(points.count, points.count)
        cost = -np.subtract.outer(square, square) - mean
    cost[np.tril_indices(len(cost))] = np.inf
    best, back = cost[0], []
    for _ in range(k - 1):
        through = best[:, None] + cost
        back.append(np.argmin(through, axis=0))
        best = through[back[-1], np.arange(len(best))]
    cuts = [len(points.place)]
    for row in reversed(back):
        cuts.append(int(row[cuts[-1]]))
    return np.array([0, *reversed(cuts)])


def _best_of_two(points: Points) -> np.ndarray:
    """The best of all places to cut in two."""
    left_n, left_s = points.count[1:-1], points.total[1:-1]
    gain = left_s**2 / left_n + (points.total[-1] - left_s) ** 2 / (points.count[-1] - left_n)
    return np.array([0, int(np.argmax(gain)) + 1, len(points.place)])


def _settle(points: Points, cuts: np.ndarray) -> np.ndarray:
    """Move misplaced centroids: first all moves that help at once, then single ones that help after some Lloyd steps."""
    for _ in range(MOVE_ROUNDS):
        for _ in range(MOVE_ROUNDS):
            moved = _moved(points, cuts)
            if moved is None:
                break
            cuts = lloyd(points, moved, 30)
        cuts = lloyd(points, cuts, LLOYD_STEPS)
        for tried, worth in _trials(points, cuts):
            tried = lloyd(points, tried, 60)
            if improvement(points, cuts, tried) > 1e-6 * worth:
                cuts = tried
                break
        else:
            return cuts
    return lloyd(points, cuts, LLOYD_STEPS)


def lloyd(points: Points, cuts: np.ndarray, steps: int) -> np.ndarray:
    """Alternate means and nearest intervals until nothing changes."""
    k = len(cuts) - 1
    for _ in range(steps):
        number, sums = points.sums(cuts)
        new = points.cuts(sums / number)
        if (new[1:] == new[:-1]).any():
            new = _repair(points, new, k)
        if np.array_equal(new, cuts):
            break
        cuts = new
    return cuts


def improvement(points: Points, old: np.ndarray, new: np.ndarray) -> float:
    """By how much the inertia falls from one partition to the other; clusters that both have are left out of the sums."""
    gained = 0.0
    for cuts, other, sign in ((old, new, -1), (new, old, 1)):
        at = np.minimum(other.searchsorted(cuts[:-1]), len(other) - 2)
        changed = (other[at] != cuts[:-1]) | (other[at + 1] != cuts[1:])
        number, sums = points.sums(cuts)
        gained += sign * float((sums[changed] ** 2 / number[changed]).sum())
    return gained


def _repair(points: Points, cuts: np.ndarray, k: int) -> np.ndarray:
    """Drop empty intervals and split the clusters where that helps most until there are k again."""
    cuts = np.unique(cuts)
    while len(cuts) - 1 < k:
        gain, where = _best_splits(points, cuts)
        missing = k - (len(cuts) - 1)
        chosen = np.argsort(-gain, kind="stable")[:missing]
        chosen = chosen[where[chosen] > cuts[chosen]]
        cuts = np.sort(np.concatenate((cuts, where[chosen])))
    return cuts


def _best_splits(points: Points, cuts: np.ndarray, tries: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """For each interval the best of some places to split it: (gain of the objective, place); gain -1 for a single place."""
    first, last = cuts[:-1], cuts[1:] - 1
    low, high = points.place[first], points.place[last]
    part = (np.arange(1, tries + 1) / (tries + 1))[None]
    by_value = points.place.searchsorted((low[:, None] + (high - low)[:, None] * part).ravel()).reshape(-1, tries)
    by_rank = first[:, None] + np.round((last - first)[:, None] * part).astype(np.int64)
    places = np.concatenate((by_value, by_rank), axis=1)
    places = np.clip(places, first[:, None] + 1, np.maximum(last, first + 1)[:, None])
    single = first == last
    places = np.minimum(places, len(points.place) - 1)
    left_n = points.count[places] - points.count[first][:, None]
    left_s = points.total[places] - points.total[first][:, None]
    number, sums = (x[:, None] for x in points.sums(cuts))
    right_n = number - left_n
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = left_n * right_n / number * (left_s / left_n - (sums - left_s) / right_n) ** 2
    gain[single] = -1.0
    best = np.argmax(gain, axis=1)
    rows = np.arange(len(first))
    return gain[rows, best], np.where(single, first, places[rows, best])


def _merge_costs(points: Points, cuts: np.ndarray) -> np.ndarray:
    """What merging each interval with the next one takes from the objective (k-1,)."""
    number, sums = points.sums(cuts)
    return number[1:] * number[:-1] / (number[1:] + number[:-1]) * np.diff(sums / number) ** 2


def _moved(points: Points, cuts: np.ndarray) -> np.ndarray | None:
    """Merge neighbours that cost little and split clusters that gain more, on disjoint clusters; None if nothing helps."""
    cost, (gain, where) = _merge_costs(points, cuts), _best_splits(points, cuts)
    busy = np.zeros(len(cuts) - 1, bool)
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
    return np.sort(np.concatenate((np.delete(cuts, drop), add))) if add else None


def _trials(points: Points, cuts: np.ndarray, width: int = 4) -> Iterator[tuple[np.ndarray, float]]:
    """Single moves that cost more than they gain at once, the best splits with the cheapest merges, and what is at stake."""
    cost, (gain, where) = _merge_costs(points, cuts), _best_splits(points, cuts)
    for i in np.argsort(-gain, kind="stable")[:width]:
        for j in np.argsort(cost, kind="stable")[:width]:
            if i not in (j, j + 1) and gain[i] > 0:
                yield np.sort(np.append(np.delete(cuts, j + 1), where[i])), float(gain[i] + cost[j])


# ----------------------------------------------------------------------------------------------------------------- starts


def _linear(points, k, seed):
    """Equally spaced from the smallest to the largest value."""
    return np.linspace(points.place[0], points.place[-1], k)


def _density(points, k, seed):
    """Equally spaced levels of the cumulative distribution."""
    return _quantiles(points.place, points.count[1:], k)


def _forgy(points, k, seed):
    """k of the values at random."""
    ranks = np.random.default_rng(seed).choice(int(points.count[-1]), size=k, replace=False)
    return np.sort(points.place[points.count.searchsorted(ranks, side="right") - 1])


def _companded(points, k, seed):
    """Quantiles of the density to the power 1/3, on a histogram."""
    bins = min(8192, max(64, len(points.place) // 16))
    edges = np.linspace(points.place[0], points.place[-1], bins + 1)
    below = points.count[points.place.searchsorted(edges[1:-1])]
    mass = np.diff(np.concatenate(([0.0], below, [points.count[-1]])))
    level = np.concatenate(([0.0], np.cumsum(np.cbrt(mass))))
    return np.interp((np.arange(k) + 0.5) / k * level[-1], level, edges)


def _quantiles(place, upto, k):
    levels = (np.arange(k) + 0.5) / k * upto[-1]
    return place[np.minimum(upto.searchsorted(levels), len(place) - 1)]


START = {"linear": _linear, "density": _density, "forgy": _forgy, "companded": _companded}
