"""Decomposition: golden vectors G3, properties 1 to 6, and comparison with an independent implementation."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redundancy_graph import select_filters
from redundancy_graph.graph import connected_components, core_numbers, coverage, decompose, redundancy_graph

TRIANGLES = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
K4 = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
GOLDEN = {
    "path": ([(0, 1), (1, 2), (2, 3)], [4, 1, 2, 3], [0], [1]),
    "star": ([(0, 1), (0, 2), (0, 3), (0, 4)], [1, 2, 3, 4, 5], [4], [1]),
    "bridged triangles": ([*TRIANGLES, (2, 3)], [1, 2, 3, 4, 5, 6], [5], [2]),
    "K4, pendant, isolated": ([*K4, (3, 4)], [1, 2, 3, 4, 9, 5], [4, 5], [3, 1]),
    "K4, pendant": ([*K4, (3, 4)], [1, 2, 3, 9, 4], [3], [3, 1]),
    "equal norms": ([(0, 1), (0, 2), (1, 2)], [2, 2, 2], [0], [2]),
    "same round": ([*TRIANGLES, (6, 7)], [1, 2, 3, 6, 5, 4, 7, 8], [2, 3, 7], [2, 1]),
    "no edge": ([], [1, 2, 3], [0, 1, 2], []),
    "one vertex": ([], [1], [0], []),
}


def graph(edges: list[tuple[int, int]], vertices: int) -> np.ndarray:
    adjacency = np.zeros((vertices, vertices), dtype=bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = True
    return adjacency


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_graphs_are_decomposed(name):
    edges, l1, kept, ks = GOLDEN[name]
    result = decompose(graph(edges, len(l1)), l1)
    assert result.kept == kept
    assert [r.k for r in result.rounds] == ks
    assert select_filters(graph(edges, len(l1)).astype(float), l1, 0.5) == kept


def test_rounds_record_merged_filters():
    edges, l1, *_ = GOLDEN["K4, pendant, isolated"]
    first, second = decompose(graph(edges, 6), l1).rounds
    assert first.merged == {3: [0, 1, 2]}
    assert second.merged == {4: [3]}


def test_coverage_counts_removed_filters_similar_to_kept_ones():
    edges, l1, *_ = GOLDEN["path"]
    adjacency = graph(edges, 4)
    assert coverage(adjacency, decompose(adjacency, l1).kept) == 1 / 3  # only vertex 1 is adjacent to the kept vertex 0
    assert coverage(adjacency, [0, 1, 2, 3]) == 1


@st.composite
def graphs(draw, distinct: bool = True):
    """Generate (similarity, l1) of up to 12 filters; similarities are sixteenths, so that some equal the threshold."""
    size = draw(st.integers(1, 12))
    upper = draw(st.lists(st.integers(0, 16), min_size=size * size, max_size=size * size))
    s = np.triu(np.array(upper, dtype=float).reshape(size, size) / 16, 1)
    l1 = (
        draw(st.permutations(range(size)))
        if distinct
        else draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    )
    return s + s.T + np.eye(size), list(l1)


thresholds = st.integers(0, 16).map(lambda i: i / 16)


def reference_selection(s: np.ndarray, l1: list[float], threshold: float) -> list[int]:
    """Select filters with sets, independently of the package's implementation."""
    neighbors = {i: {j for j in range(len(s)) if j != i and s[i, j] >= threshold} for i in range(len(s))}
    while any(neighbors.values()):
        core = next(core for k in range(len(s), 0, -1) if (core := reference_core(neighbors, k)))
        while core:
            component, frontier = set(), {min(core)}
            while frontier:
                component |= frontier
                frontier = {j for i in frontier for j in neighbors[i] & core} - component
            core -= component
            survivor = max(sorted(component), key=lambda i: l1[i])
            for removed in component - {survivor}:
                del neighbors[removed]
            neighbors = {i: others - (component - {survivor}) for i, others in neighbors.items()}
    return sorted(neighbors)


def reference_core(neighbors: dict[int, set[int]], k: int) -> set[int]:
    core = set(neighbors)
    while weak := {i for i in core if len(neighbors[i] & core) < k}:
        core -= weak
    return core


@settings(max_examples=300, deadline=None)
@given(graphs(distinct=False), thresholds)
def test_selection_equals_reference_implementation(case, threshold):
    s, l1 = case
    assert select_filters(s, l1, threshold) == reference_selection(s, l1, threshold)


@settings(max_examples=200, deadline=None)
@given(graphs(distinct=False), thresholds)
def test_kept_filters_are_independent_and_cover_components(case, threshold):
    s, l1 = case
    adjacency = redundancy_graph(s, threshold)
    kept = select_filters(s, l1, threshold)
    assert not adjacency[np.ix_(kept, kept)].any()
    everything = np.ones(len(s), dtype=bool)
    parts = connected_components(adjacency, everything)
    assert len(kept) >= len(parts) >= 1
    for part in parts:
        best = max(part.tolist(), key=lambda i: (l1[i], -i))
        assert best in kept


@settings(max_examples=100, deadline=None)
@given(graphs(), thresholds)
def test_rounds_account_for_every_filter(case, threshold):
    s, l1 = case
    result = decompose(redundancy_graph(s, threshold), l1)
    ks = [r.k for r in result.rounds]
    assert ks == sorted(ks, reverse=True)
    assert len(ks) <= len(s)
    removed = [i for r in result.rounds for merged in r.merged.values() for i in merged]
    assert sorted(removed + result.kept) == list(range(len(s)))


@settings(max_examples=100, deadline=None)
@given(graphs(), thresholds, st.randoms(use_true_random=False))
def test_permuted_filters_give_permuted_selection(case, threshold, random):
    s, l1 = case
    order = list(range(len(s)))
    random.shuffle(order)
    permuted = select_filters(s[np.ix_(order, order)], [l1[i] for i in order], threshold)
    assert sorted(order[i] for i in permuted) == select_filters(s, l1, threshold)


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_extreme_thresholds_keep_all_or_one(case):
    s, l1 = case
    assert select_filters(s, l1, 1.0001) == list(range(len(s)))
    assert select_filters(s, l1, 0) == [int(np.argmax(l1))]
    assert select_filters(s, l1, -3) == [int(np.argmax(l1))]


def test_threshold_one_merges_equal_hashes():
    s = np.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])
    assert select_filters(s, [1, 2, 3], 1.0) == [1, 2]
    assert select_filters(s, [1, 2, 3], 1.0000001) == [0, 1, 2]


@settings(max_examples=100, deadline=None)
@given(graphs(), thresholds)
def test_cores_and_components_equal_networkx(case, threshold):
    adjacency = redundancy_graph(case[0], threshold)
    other = networkx.from_numpy_array(adjacency)
    assert core_numbers(adjacency).tolist() == [number for _, number in sorted(networkx.core_number(other).items())]
    parts = connected_components(adjacency, np.ones(len(adjacency), dtype=bool))
    assert [set(part.tolist()) for part in parts] == sorted(networkx.connected_components(other), key=min)


def test_core_numbers_of_known_graph():
    assert core_numbers(graph([*K4, (3, 4)], 6)).tolist() == [3, 3, 3, 3, 1, 0]


def test_long_chain_is_one_component():
    adjacency = graph([(i, i + 1) for i in range(299)], 300)
    assert decompose(adjacency, np.arange(300.0)).kept == [299]


@pytest.mark.parametrize(
    ("similarity", "l1", "threshold", "message"),
    [
        (np.ones((2, 3)), [1, 2], 0.5, "square"),
        (np.ones(4), [1, 2], 0.5, "square"),
        (np.ones((0, 0)), [], 0.5, "square"),
        (np.ones((2, 2)), [1, 2, 3], 0.5, "2 L1 norms"),
        (np.ones((2, 2)), [1, np.nan], 0.5, "2 L1 norms"),
        (np.ones((2, 2)), [1, 2], np.nan, "nan"),
        (np.array([[1, np.nan], [np.nan, 1]]), [1, 2], 0.5, "nan"),
        (np.array([[1, 0.2], [0.4, 1]]), [1, 2], 0.5, "symmetric"),
    ],
)
def test_invalid_input_raises(similarity, l1, threshold, message):
    with pytest.raises(ValueError, match=message):
        select_filters(similarity, l1, threshold)


def test_input_graph_is_unchanged():
    adjacency = graph(K4, 5)
    before = adjacency.copy()
    decompose(adjacency, [1, 2, 3, 4, 5])
    assert np.array_equal(adjacency, before)
