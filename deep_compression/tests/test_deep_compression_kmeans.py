"""One-dimensional k-means: properties 10 and 11 of the paper."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deep_compression import gmm_1d, gmm_kmeans_1d, kmeans_1d
from deep_compression import kmeans as km

SOME = np.random.default_rng(0)


def pruned_weights(number, seed=0):
    """Return Laplace-distributed weights without those near zero, as after pruning."""
    values = np.random.default_rng(seed).laplace(0, 0.03, 8 * number).astype(np.float32)
    return values[np.abs(values) > 0.02][:number]


def optimum(values, k):
    kmeans1d = pytest.importorskip("kmeans1d")
    labels, centroids = kmeans1d.cluster(values.astype(float), k)
    return km.inertia(values, np.array(centroids), np.array(labels))


def points_of(values):
    ordered = np.unique(values).astype(np.float64)
    counts = np.array([(values == v).sum() for v in np.unique(values)], float)
    return km.Points(
        ordered, np.concatenate(([0.0], np.cumsum(counts))), np.concatenate(([0.0], np.cumsum(counts * ordered)))
    )


@pytest.mark.parametrize("init", km.CENTROID_INITS)
@pytest.mark.parametrize("k", [2, 5, 16])
def test_every_initialization_is_close_to_optimum(init, k):
    for values in (pruned_weights(20_000), SOME.normal(size=3000), SOME.standard_cauchy(1000), SOME.random(50)):
        centroids, labels = kmeans_1d(values, k, init)
        assert km.inertia(values, centroids, labels) <= 1.1 * optimum(values, k)


def test_companded_is_close_to_optimum_with_256_clusters():
    values = pruned_weights(8_000)
    centroids, labels = kmeans_1d(values, 256, "companded")
    assert len(centroids) == 256
    assert km.inertia(values, centroids, labels) <= 1.1 * optimum(values, 256)


def test_small_layers_reach_optimum():
    for seed in range(5):
        values = np.random.default_rng(seed).lognormal(size=60)
        for k in (2, 7, 20):
            assert km.inertia(values, *kmeans_1d(values, k)) == pytest.approx(optimum(values, k), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("init", km.CENTROID_INITS)
def test_clusters_are_nonempty_and_labels_are_nearest(init):
    values = pruned_weights(5000)
    centroids, labels = kmeans_1d(values, 64, init)
    assert len(centroids) == 64 and np.bincount(labels, minlength=64).min() > 0
    assert (np.diff(centroids) > 0).all() and centroids.dtype == values.dtype and labels.dtype == np.int64
    nearest = np.abs(values[:, None].astype(np.float64) - centroids.astype(np.float64)).min(axis=1)
    chosen = np.abs(values.astype(np.float64) - centroids[labels].astype(np.float64))
    assert (chosen <= nearest + 1e-7).all()


def test_gap_around_zero_leaves_no_cluster_empty():
    values = np.concatenate((pruned_weights(5000), np.float32([-2.0, 3.0])))
    for init in km.CENTROID_INITS:
        centroids, labels = kmeans_1d(values, 32, init)
        assert np.isfinite(centroids).all() and np.bincount(labels, minlength=32).min() > 0


def test_lloyd_iterations_never_increase_inertia():
    points = points_of(pruned_weights(4000))
    boundaries = km._repair(points, points.boundaries(km.INITIALIZERS["linear"](points, 12, 0)), 12)
    for _ in range(50):
        moved = km.lloyd(points, boundaries, 1)
        assert km.improvement(points, boundaries, moved) >= -1e-9
        boundaries = moved


def test_relocation_is_at_least_as_good_as_lloyd():
    for k in (3, 16, 100):
        for init in km.CENTROID_INITS:
            values = pruned_weights(8000, seed=k)
            alone = km.inertia(values, *kmeans_1d(values, k, init, steps=2000))
            assert km.inertia(values, *kmeans_1d(values, k, init)) <= alone * (1 + 1e-6)


def test_inertia_is_zero_with_one_cluster_per_distinct_value():
    values = np.float32([3, 1, 1, 2, 3, -5])
    for k in (4, 5, 100):
        for init in km.CENTROID_INITS:
            centroids, labels = kmeans_1d(values, k, init)
            assert centroids.tolist() == [-5, 1, 2, 3] and np.array_equal(centroids[labels], values)


def test_initializations_follow_paper():
    values = np.sort(pruned_weights(1000)).astype(np.float64)
    points = points_of(values)
    linear = km.INITIALIZERS["linear"](points, 7, 0)
    assert linear[0] == values[0] and linear[-1] == values[-1]
    assert np.diff(linear) == pytest.approx(np.full(6, (values[-1] - values[0]) / 6))
    levels = [(values <= c).mean() for c in km.INITIALIZERS["density"](points, 4, 0)]
    assert levels == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=2e-3)
    assert set(km.INITIALIZERS["forgy"](points, 9, 3)) <= set(values)


def test_clustering_is_deterministic_and_order_independent():
    values = pruned_weights(5000)
    mixed = np.random.default_rng(1).permutation(len(values))
    for init in km.CENTROID_INITS:
        a, b = kmeans_1d(values, 20, init, seed=4), kmeans_1d(values[mixed], 20, init, seed=4)
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1][mixed], b[1])


def test_grid_barely_increases_inertia(monkeypatch):
    values = pruned_weights(60_000)
    exact = km.inertia(values, *kmeans_1d(values, 64))
    monkeypatch.setattr(km, "BINNED_FROM", 1)
    called = []
    real = km._on_sorted
    monkeypatch.setattr(km, "_on_sorted", lambda *a: called.append(1) or real(*a))
    assert km.inertia(values, *kmeans_1d(values, 64)) <= 1.02 * exact and not called
    outlier = np.concatenate((values, np.float32([1e6])))
    centroids, labels = kmeans_1d(outlier, 64)
    assert called and np.bincount(labels, minlength=64).min() > 0 and centroids[-1] == np.float32(1e6)


def test_torch_tensors_keep_dtype_and_shape():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        values = torch.randn(10, 7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        centroids, labels = kmeans_1d(values, 5)
        assert centroids.dtype == dtype and labels.shape == values.shape and labels.dtype == torch.int64
        assert float((values - centroids[labels]).double().square().sum()) < 0.2 * float(values.double().square().sum())


def test_extreme_magnitudes_are_clustered():
    for scale in (1e-40, 1e-20, 1e37):
        values = (SOME.normal(size=500) * scale).astype(np.float32)
        centroids, labels = kmeans_1d(values, 8)
        assert np.isfinite(centroids).all() and np.bincount(labels, minlength=8).min() > 0
    centroids, labels = kmeans_1d(np.array([-1e308, 0.0, 1e308, 1.1e308]), 2)
    assert np.isfinite(centroids).all() and sorted(set(labels)) == [0, 1]


def test_empty_input_has_no_clusters():
    centroids, labels = kmeans_1d(np.zeros((0, 3), np.float32), 4)
    assert len(centroids) == 0 and labels.shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_raise(bad):
    for cluster in (kmeans_1d, gmm_1d, gmm_kmeans_1d):
        with pytest.raises(ValueError, match="finite"):
            cluster(np.array([1.0, bad, 2.0]), 2)


@pytest.mark.parametrize(("k", "init"), [(0, "linear"), (-1, "linear"), (2.5, "linear"), (2, "best"), (True, "linear")])
def test_invalid_arguments_raise(k, init):
    with pytest.raises(ValueError):
        kmeans_1d(np.arange(5.0), k, init)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from(km.CENTROID_INITS),
)
@example([0.0, 0.0, 0.0, -999999.0, -1000000.0, -1000000.0, -1.5], 3, "linear")
def test_any_values_give_nonempty_clusters(values, k, init):
    values = np.float32(values)
    centroids, labels = kmeans_1d(values, k, init)
    assert len(centroids) == min(k, len(np.unique(values)))
    assert np.bincount(labels, minlength=len(centroids)).min() > 0
    assert centroids.min() >= values.min() and centroids.max() <= values.max()


def test_mixture_centroids_are_means_of_members():
    values = pruned_weights(5000)
    for cluster in (gmm_1d, gmm_kmeans_1d):
        centroids, labels = cluster(values, 9)
        number = np.bincount(labels, minlength=len(centroids))
        means = np.bincount(labels, weights=values) / number
        assert 2 <= len(centroids) <= 9 and number.min() > 0
        assert centroids == pytest.approx(means, rel=1e-5) and (np.diff(centroids) > 0).all()
        again = cluster(values, 9)
        assert np.array_equal(again[0], centroids) and np.array_equal(again[1], labels)


def test_mixtures_accept_few_values_and_tensors():
    for cluster in (gmm_1d, gmm_kmeans_1d):
        centroids, labels = cluster(np.float32([1, 1, 2]), 4)
        assert centroids.tolist() == [1, 2] and labels.tolist() == [0, 0, 1]
        centroids, labels = cluster(torch.linspace(-1, 1, 100).reshape(10, 10), 4)
        assert isinstance(centroids, torch.Tensor) and labels.shape == (10, 10)


def test_paper_kmeans_drops_empty_centroids_and_converges():
    """Linear initialization leaves centroids in the gap around zero: they are dropped, and every value is nearest to its centroid."""
    random = np.random.default_rng(0)
    values = random.laplace(scale=0.03, size=20_000)
    values = values[np.abs(values) > 0.05]
    centroids, labels = kmeans_1d(values, 63, "linear", relocate=False)
    relocated, _ = kmeans_1d(values, 63, "linear")
    assert 20 < len(centroids) < 63 == len(relocated)
    assert (np.bincount(labels) > 0).all() and (np.diff(centroids) > 0).all()
    assert np.array_equal(labels, np.abs(values[:, None] - centroids).argmin(1))
    assert centroids == pytest.approx([values[labels == k].mean() for k in range(len(centroids))])
    few, _ = kmeans_1d(values, 63, "linear", steps=0, relocate=False)
    assert np.diff(few).std() < np.diff(centroids).std()
    assert kmeans_1d(np.array([1.0, 2.0, 2.0]), 4, relocate=False)[0].tolist() == [1.0, 2.0]
