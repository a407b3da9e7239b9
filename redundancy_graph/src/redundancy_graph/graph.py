"""Filter selection by repeated k-core decomposition of the redundancy graph, on NumPy arrays.

Vertices are the filters of a layer; i and j are adjacent iff s(i, j) >= threshold. While there is an edge: take the innermost
non-empty k-core, split it into connected components, keep in each component only the filter with the largest L1 norm (ties:
the lowest index), and delete the other filters of the component from the graph. The remaining filters are kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class MergeRound:
    """One round of the decomposition.

    Attributes:
        k: Core number of the innermost core.
        merged: {kept filter: filters merged into it}.
    """

    k: int
    merged: dict[int, list[int]]


@dataclass(frozen=True)
class Decomposition:
    """Kept filters, ascending, and the merge rounds (their k never increases)."""

    kept: list[int]
    rounds: list[MergeRound]


def select_filters(similarity: ArrayLike, l1_norms: ArrayLike, threshold: float) -> list[int]:
    """Select the filters to keep (Li et al. 2024, section 3).

    Args:
        similarity: Symmetric matrix (C, C); the diagonal is ignored.
        l1_norms: L1 norms of the filters' weights, (C,).
        threshold: Filters with at least this similarity are adjacent. Above 1, all filters are kept; at 1, filters that agree on
            every bit are merged; at 0 or less, one filter is kept.

    Returns:
        Ascending indices of the kept filters.

    Raises:
        ValueError: If shapes do not match, values are NaN, or the matrix is not symmetric.
    """
    return decompose(redundancy_graph(similarity, threshold), l1_norms).kept


def redundancy_graph(similarity: ArrayLike, threshold: float) -> np.ndarray:
    """Return the adjacency matrix (C, C), bool, without loops: similarity >= threshold."""
    values = np.asarray(similarity, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"similarity must be a square matrix, got shape {values.shape}")
    if np.isnan(values).any() or np.isnan(threshold):
        raise ValueError("similarities and threshold must not be nan")
    if not np.allclose(values, values.T, rtol=0, atol=1e-9):
        raise ValueError("similarity must be symmetric")
    adjacency = np.maximum(values, values.T) >= threshold
    np.fill_diagonal(adjacency, False)
    return adjacency


def decompose(adjacency: np.ndarray, l1_norms: ArrayLike) -> Decomposition:
    """Decompose a graph given as a symmetric bool matrix (C, C) without loops; ``l1_norms`` has shape (C,)."""
    importance = np.asarray(l1_norms, dtype=np.float64)
    if importance.shape != (len(adjacency),) or np.isnan(importance).any():
        raise ValueError(f"expected {len(adjacency)} L1 norms without nan, got an array of shape {importance.shape}")
    adjacency = adjacency.copy()
    remaining = np.ones(len(adjacency), dtype=bool)
    rounds = []
    while adjacency.any():
        cores = core_numbers(adjacency)
        k = int(cores.max())
        merged = {}
        for members in connected_components(adjacency, cores == k):
            survivor = int(members[np.argmax(importance[members])])
            removed = members[members != survivor]
            merged[survivor] = removed.tolist()
            remaining[removed] = False
        adjacency[~remaining] = False
        adjacency[:, ~remaining] = False
        rounds.append(MergeRound(k, merged))
    return Decomposition(np.flatnonzero(remaining).tolist(), rounds)


def core_numbers(adjacency: np.ndarray) -> np.ndarray:
    """Return for each vertex the largest k such that it belongs to the k-core (all degrees inside >= k), (C,) int64.

    All vertices of degree <= k are removed at once, repeatedly; then k is raised to the smallest remaining degree.
    """
    degree = adjacency.sum(axis=1)
    cores = np.zeros(len(adjacency), dtype=np.int64)
    unprocessed = np.ones(len(adjacency), dtype=bool)
    k = 0
    while unprocessed.any():
        low = unprocessed & (degree <= k)
        if low.any():
            cores[low] = k
            unprocessed &= ~low
            degree -= adjacency[low].sum(axis=0)
        else:
            k = int(degree[unprocessed].min())
    return cores


def connected_components(adjacency: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Return the connected components of the subgraph of the vertices ``inside`` (C,) bool, each as ascending indices."""
    unvisited = inside.copy()
    found = []
    while unvisited.any():
        members = np.zeros(len(unvisited), dtype=bool)
        frontier = np.zeros(len(unvisited), dtype=bool)
        frontier[np.argmax(unvisited)] = True
        while frontier.any():
            members |= frontier
            frontier = adjacency[frontier].any(axis=0) & inside & ~members
        unvisited &= ~members
        found.append(np.flatnonzero(members))
    return found


def coverage(adjacency: np.ndarray, kept: list[int]) -> float:
    """Return the fraction of the removed filters that are similar to a kept one; 1 if none was removed.

    It may be below 1: a component is reduced to one filter even if not all its filters are similar to each other.
    """
    removed = np.ones(len(adjacency), dtype=bool)
    removed[kept] = False
    if not removed.any():
        return 1.0
    return float(adjacency[np.ix_(removed, ~removed)].any(axis=1).mean())
