"""Which filters to keep: repeated k-core decomposition of the redundancy graph.

Vertices are the filters of a layer, an edge joins i and j iff s(i, j) >= threshold. While there is an edge: take the innermost
non-empty k-core, split it into connected components, keep of each component only the filter with the largest L1 norm (ties:
the lowest index) and delete its other filters from the graph. What is left at the end are the filters to keep. All of it is
arithmetic on arrays: no network here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Round:
    """One pass of the loop: the k of the innermost core and, for each survivor, the filters that it stands for."""

    k: int
    absorbed: dict[int, list[int]]


@dataclass(frozen=True)
class Decomposition:
    """The filters left, ascending, and the rounds that led there (their k never increases)."""

    kept: list[int]
    rounds: list[Round]


def select_filters(similarity: ArrayLike, l1_norms: ArrayLike, threshold: float) -> list[int]:
    """Indices, ascending, of the filters to keep, for similarities (C, C) and L1 norms (C,) of the filters' weights.

    The diagonal is ignored. A threshold above 1 keeps all; at 1 filters that agree on every bit are still merged; at 0 or
    less one is kept. Raises ValueError for shapes that do not fit, values that are not numbers, or an asymmetric matrix.
    """
    return decompose(redundancy_graph(similarity, threshold), l1_norms).kept


def redundancy_graph(similarity: ArrayLike, threshold: float) -> np.ndarray:
    """Adjacency matrix (C, C), bool, without loops: similarity >= threshold."""
    values = np.asarray(similarity, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"the similarity must be a square matrix, not of shape {values.shape}")
    if np.isnan(values).any() or np.isnan(threshold):
        raise ValueError("similarities and threshold must be numbers, not nan")
    if not np.allclose(values, values.T, rtol=0, atol=1e-9):
        raise ValueError("the similarity matrix is not symmetric")
    adjacency = np.maximum(values, values.T) >= threshold
    np.fill_diagonal(adjacency, False)
    return adjacency


def decompose(adjacency: np.ndarray, l1_norms: ArrayLike) -> Decomposition:
    """Decompose a graph given as a symmetric bool matrix (C, C) without loops; ``l1_norms`` has shape (C,)."""
    importance = np.asarray(l1_norms, dtype=np.float64)
    if importance.shape != (len(adjacency),) or np.isnan(importance).any():
        raise ValueError(
            f"{len(adjacency)} L1 norms are needed, all of them numbers; got an array of {importance.shape}"
        )
    adjacency = adjacency.copy()
    alive = np.ones(len(adjacency), dtype=bool)
    rounds = []
    while adjacency.any():
        cores = core_numbers(adjacency)
        k = int(cores.max())
        absorbed = {}
        for members in components(adjacency, cores == k):
            survivor = int(members[np.argmax(importance[members])])
            gone = members[members != survivor]
            absorbed[survivor] = gone.tolist()
            alive[gone] = False
        adjacency[~alive] = False
        adjacency[:, ~alive] = False
        rounds.append(Round(k, absorbed))
    return Decomposition(np.flatnonzero(alive).tolist(), rounds)


def core_numbers(adjacency: np.ndarray) -> np.ndarray:
    """For each vertex the largest k whose k-core (all degrees inside it >= k) holds it; int64 (C,).

    Peeling: remove all vertices of degree <= k at once, until none is left, and raise k to the smallest degree that remains.
    """
    degree = adjacency.sum(axis=1)
    cores = np.zeros(len(adjacency), dtype=np.int64)
    left = np.ones(len(adjacency), dtype=bool)
    k = 0
    while left.any():
        low = left & (degree <= k)
        if low.any():
            cores[low] = k
            left &= ~low
            degree -= adjacency[low].sum(axis=0)
        else:
            k = int(degree[left].min())
    return cores


def components(adjacency: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Connected components of the subgraph of the vertices ``inside`` (bool, (C,)), each as ascending indices."""
    todo = inside.copy()
    found = []
    while todo.any():
        members = np.zeros(len(todo), dtype=bool)
        frontier = np.zeros(len(todo), dtype=bool)
        frontier[np.argmax(todo)] = True
        while frontier.any():
            members |= frontier
            frontier = adjacency[frontier].any(axis=0) & inside & ~members
        todo &= ~members
        found.append(np.flatnonzero(members))
    return found


def coverage(adjacency: np.ndarray, kept: list[int]) -> float:
    """Share of the removed filters that are similar to a kept one; 1 if none was removed.

    It may be below 1: a core component collapses to one filter even where its members are not all similar to each other.
    """
    removed = np.ones(len(adjacency), dtype=bool)
    removed[kept] = False
    if not removed.any():
        return 1.0
    return float(adjacency[np.ix_(removed, ~removed)].any(axis=1).mean())
