"""Hash and similarity: golden vectors G1 and G2 of the original algorithm, and properties 7 and 8."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redundancy_graph import filter_similarity, select_filters, similarity
from redundancy_graph.hashing import hash_maps, low_frequencies

GOLDEN_L1 = [5, 3, 6, 2, 4, 1]
AGREE_8 = [156, 133, 126, 121, 114, 125, 126, 109, 112, 129, 114, 115, 123, 126, 123]
AGREE_4 = [43, 38, 29, 28, 27, 43, 34, 29, 26, 39, 30, 23, 37, 28, 33]
KEPT_8 = {
    0.0: [2],
    0.5: [2],
    0.55: [2],
    0.6: [2, 4],
    0.65: [2, 4, 5],
    0.7: [0, 2, 3, 4, 5],
    0.75: [0, 2, 3, 4, 5],
    0.8: [0, 2, 3, 4, 5],
    0.9: [0, 1, 2, 3, 4, 5],
    1.0: [0, 1, 2, 3, 4, 5],
}
KEPT_4 = {
    0.0: [2],
    0.5: [2],
    0.55: [2, 5],
    0.6: [2, 5],
    0.65: [2, 4],
    0.7: [2, 4, 5],
    0.75: [2, 5],
    0.8: [2, 4, 5],
    0.9: [0, 1, 2, 3, 4, 5],
}


def golden_maps(size: int) -> torch.Tensor:
    """f[n, c, y, x] = sin((c + 1)(0.3 y + 0.2 x) + n) for 3 images and 6 filters."""
    n = torch.arange(3, dtype=torch.float64).view(3, 1, 1, 1)
    c = torch.arange(6, dtype=torch.float64).view(1, 6, 1, 1)
    y = torch.arange(size, dtype=torch.float64).view(1, 1, size, 1)
    x = torch.arange(size, dtype=torch.float64).view(1, 1, 1, size)
    return torch.sin((c + 1) * (0.3 * y + 0.2 * x) + n)


def random_maps(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("size", "agree", "total"), [(8, AGREE_8, 192), (4, AGREE_4, 48)])
def test_golden_agreement_counts_are_exact(size, agree, total):
    counts, of = similarity.agreement_counts(hash_maps(golden_maps(size)))
    assert of == total
    assert counts[np.triu_indices(6, 1)].tolist() == agree
    s = filter_similarity(golden_maps(size))
    assert s[np.triu_indices(6, 1)].tolist() == [count / total for count in agree]


@pytest.mark.parametrize(("size", "kept"), [(8, KEPT_8), (4, KEPT_4)])
def test_golden_selections_are_reproduced(size, kept):
    s = filter_similarity(golden_maps(size))
    assert {t: select_filters(s, GOLDEN_L1, t) for t in kept} == kept


def test_higher_threshold_may_remove_more_filters():
    """Property 5: the golden 4x4 vector is a counterexample to monotonicity."""
    s = filter_similarity(golden_maps(4))
    assert len(select_filters(s, GOLDEN_L1, 0.75)) < len(select_filters(s, GOLDEN_L1, 0.7))


def cosine_transform(x: np.ndarray, ortho: bool = False) -> np.ndarray:
    """Compute D[u, v] = 4 sum X[y, x] cos(..) cos(..) by definition, optionally with orthonormal scaling."""
    height, width = x.shape
    u, y = np.arange(height)[:, None], np.arange(height)[None]
    v, w = np.arange(width)[:, None], np.arange(width)[None]
    rows = np.cos(np.pi * u * (2 * y + 1) / (2 * height))
    columns = np.cos(np.pi * v * (2 * w + 1) / (2 * width))
    d = 4 * np.einsum("uy,vx,yx->uv", rows, columns, x)
    if ortho:
        d[0] /= np.sqrt(2)
        d[:, 0] /= np.sqrt(2)
    return d


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (4, 4), (2, 2), (1, 1), (32, 32), (14, 14), (12, 5)])
def test_hash_follows_definition(shape):
    maps = random_maps(0, (3, 4, *shape))
    rows, columns = min(8, shape[0]), min(8, shape[1])
    bits = hash_maps(maps)
    assert bits.shape == (3, 4, rows * columns)
    for n in range(3):
        for c in range(4):
            low = cosine_transform(maps[n, c].numpy())[:rows, :columns]
            np.testing.assert_allclose(low_frequencies(maps[n, c]).numpy(), low, atol=1e-9)
            assert bits[n, c].tolist() == (low >= low.mean()).ravel().tolist()


def test_orthonormal_scaling_changes_hash():
    maps = random_maps(1, (200, 1, 16, 16))
    flipped = 0
    for image, bits in zip(maps[:, 0].numpy(), hash_maps(maps)[:, 0].numpy(), strict=True):
        low = cosine_transform(image, ortho=True)[:8, :8]
        flipped += int(((low >= low.mean()).ravel() != bits).sum())
    assert 0.002 < flipped / (200 * 64) < 0.03  # about 1 % of the bits


def test_float32_and_float64_hashes_are_equal():
    maps = random_maps(2, (5, 7, 9, 9)).float()
    assert torch.equal(hash_maps(maps), hash_maps(maps.double()))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(-20, 20), st.sampled_from([2, 4, 7, 8, 11]))
def test_scaling_by_power_of_two_preserves_hash(seed, exponent, size):
    maps = random_maps(seed, (2, 3, size, size))
    assert torch.equal(hash_maps(maps * 2.0**exponent), hash_maps(maps))


def test_negated_maps_have_similarity_zero():
    maps = random_maps(3, (10, 1, 8, 8))
    assert filter_similarity(torch.cat([maps, -maps], dim=1))[0, 1] == 0


def test_zero_and_constant_maps_are_hashed():
    maps = torch.zeros(1, 4, 8, 8)
    maps[:, 2], maps[:, 3] = 0.3, -0.3
    bits = hash_maps(maps)[0]
    assert bits[0].all()
    assert bits[2].tolist() == [True] + [False] * 63
    assert bits[3].tolist() == [False] + [True] * 63
    s = filter_similarity(maps)
    assert s[0].tolist() == [1, 1, 1 / 64, 63 / 64]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.sampled_from([2, 4, 7, 8, 11]))
def test_similarity_is_symmetric_quotient_of_counts(seed, images, channels, size):
    maps = random_maps(seed, (images, channels, size, size))
    s = filter_similarity(maps)
    total = images * min(8, size) ** 2
    assert s.dtype == np.float64
    assert s.shape == (channels, channels)
    assert np.array_equal(s, s.T)
    assert (np.diag(s) == 1).all()
    assert ((s >= 0) & (s <= 1)).all()
    bits = hash_maps(maps)
    for i in range(channels):
        for j in range(channels):
            assert s[i, j] == int((bits[:, i] == bits[:, j]).sum()) / total


def test_similarity_equal_to_threshold_is_edge():
    """With 49 bits, 100 images and 1470 different bits, 3430 / 4900 is exactly 0.7, but the mean of quotients is below 0.7."""
    bits = torch.ones(100, 2, 49, dtype=torch.bool)
    per_image = _differences_that_sum_to(1470, 100, 49)
    for n, count in enumerate(per_image):
        bits[n, 1, :count] = False
    counts, total = similarity.agreement_counts(bits)
    assert (counts[0, 1], total) == (3430, 4900)
    assert select_filters(counts / total, [1, 2], 0.7) == [1]
    assert np.mean([1 - count / 49 for count in per_image]) < 0.7  # the computation of the original code


def _differences_that_sum_to(total: int, images: int, bits: int) -> list[int]:
    """Find Hamming distances whose mean of per-image quotients is below the exact value."""
    for seed in range(1000):
        counts = np.random.default_rng(seed).multinomial(total, [1 / images] * images)
        if counts.max() <= bits and np.mean(1 - counts / bits) < 1 - total / (images * bits):
            return counts.tolist()
    raise AssertionError("no such distances")


def test_blocked_counts_are_exact(monkeypatch):
    bits = hash_maps(random_maps(4, (7, 5, 8, 8)))
    expected = similarity.agreement_counts(bits)
    monkeypatch.setattr(similarity, "_ELEMENTS_AT_ONCE", 5 * 13)  # blocks of 13 columns; the last one is shorter
    blocked = similarity.agreement_counts(bits)
    assert np.array_equal(expected[0], blocked[0])
    assert expected[1] == blocked[1]


def test_counts_above_float32_precision_are_exact(monkeypatch):
    """More than 2**24 equal bits of two filters are counted exactly because of the block size."""
    total = (1 << 24) + 3
    monkeypatch.setattr(similarity, "_ELEMENTS_AT_ONCE", 1 << 30)
    bits = torch.ones(total, 2, 1, dtype=torch.bool)
    counts, of = similarity.agreement_counts(bits)
    assert of == total
    assert (counts == total).all()


def test_numpy_and_torch_maps_give_equal_similarities():
    maps = random_maps(5, (2, 3, 8, 8))
    assert np.array_equal(filter_similarity(maps), filter_similarity(maps.numpy()))


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 2, 8, 8), (2, 0, 8, 8), (2, 2, 0, 8)])
def test_maps_of_wrong_shape_raise(shape):
    with pytest.raises(ValueError, match="N, C, H, W"):
        filter_similarity(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_raise(value):
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 1, 3, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        filter_similarity(maps)


def test_maps_of_one_pixel_are_not_compared():
    """Their hash is one bit, always 1: all filters would count as equal."""
    maps = torch.randn(100, 64, 1, 1, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="feature maps of one pixel"):
        similarity = filter_similarity(maps)
    assert select_filters(similarity, [1.0] * 64, threshold=0.01) == list(range(64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filter_similarity(maps.view(100, 16, 2, 2)).min() < 1
        assert filter_similarity(maps.view(100, 32, 1, 2)).min() < 1
