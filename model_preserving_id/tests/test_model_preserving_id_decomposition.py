"""Properties of the interpolative decomposition: error identities, ranks, nesting, both factorizations, all input types."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from model_preserving_id import decomposition, interpolative_decomposition
from model_preserving_id.gram import Gram, RunningQR
from model_preserving_id.pivoted import least_squares, pivoted_cholesky, pivoted_qr


def random_matrix(seed: int, m: int = 60, n: int = 12, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.standard_normal((m, n)) * np.logspace(0, -2, n)
    return rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_error_equals_norm_of_r22(seed, k):
    z = random_matrix(seed)
    factor = pivoted_cholesky(z.T @ z)
    indices, t = interpolative_decomposition(z, rank=k)
    left = z - z[:, indices] @ t
    r22 = factor.r[k:, k:]
    spectral = np.linalg.norm(r22, 2) if k < 12 else 0.0
    assert np.linalg.norm(left, 2) == pytest.approx(spectral, rel=1e-6, abs=1e-10)
    assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(r22), rel=1e-6, abs=1e-10)
    assert factor.frobenius_error(k) == pytest.approx(np.linalg.norm(left) / np.linalg.norm(z), rel=1e-6, abs=1e-10)
    if k < 12:
        pivot = factor.relative_error(k) * np.abs(factor.r[0, 0])
        sigma = np.linalg.svd(z, compute_uv=False)[k]
        assert pivot * (1 - 1e-9) <= spectral <= np.sqrt(12 - k) * pivot * (1 + 1e-9)
        assert sigma <= spectral * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_t_is_identity_on_kept_columns_and_optimal(seed, k):
    z = random_matrix(seed)
    indices, t = interpolative_decomposition(z, rank=k)
    assert t.shape == (k, 12) and len(set(indices.tolist())) == k
    assert np.array_equal(t[:, indices], np.eye(k))
    refit = np.linalg.lstsq(z[:, indices], z, rcond=None)[0]
    assert np.linalg.norm(z - z[:, indices] @ t) <= np.linalg.norm(z - z[:, indices] @ refit) * (1 + 1e-8) + 1e-12


def test_full_rank_gives_identity():
    indices, t = interpolative_decomposition(random_matrix(0), rank=12)
    assert sorted(indices) == list(range(12)) and np.array_equal(t[:, indices], np.eye(12))


def test_selections_are_nested_and_errors_decrease():
    z = random_matrix(1)
    order, _ = interpolative_decomposition(z, rank=12)
    errors = []
    for k in range(1, 13):
        indices, t = interpolative_decomposition(z, rank=k)
        assert np.array_equal(indices, order[:k])
        errors.append(np.linalg.norm(z - z[:, indices] @ t))
    assert errors == sorted(errors, reverse=True)


def test_selection_equals_scipy_pivoted_qr():
    from scipy.linalg import qr

    z = random_matrix(2, 200, 20)
    _, r, order = qr(z, mode="economic", pivoting=True)
    indices, _ = interpolative_decomposition(z, rank=9)
    assert np.array_equal(indices, order[:9])
    assert pivoted_cholesky(z.T @ z).relative_error(9) == pytest.approx(abs(r[9, 9] / r[0, 0]))


@pytest.mark.parametrize("rank", [1, 7, 19])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_rank_is_found(rank, dtype):
    z = random_matrix(rank, 500, 20, rank).astype(dtype)
    indices, t = interpolative_decomposition(z, eps=1e-5)
    assert len(indices) == rank and t.dtype == dtype
    assert np.linalg.norm(z - z[:, indices] @ t) < 1e-5 * np.linalg.norm(z)


def test_rank_above_numerical_rank_stays_accurate():
    z = random_matrix(3, 500, 20, 5)
    for k in (5, 6, 12, 20):
        indices, t = interpolative_decomposition(z, rank=k)
        assert np.abs(t).max() < 100 and np.linalg.norm(z - z[:, indices] @ t) < 1e-10 * np.linalg.norm(z)


def test_dead_columns_are_removed_first():
    z = random_matrix(4)
    z[:, [2, 7]] = 0
    indices, t = interpolative_decomposition(z, rank=10)
    assert not {2, 7} & set(indices.tolist()) and not t[:, [2, 7]].any()
    indices, t = interpolative_decomposition(np.zeros((5, 3)), eps=1e-3)
    assert len(indices) == 1 and np.isfinite(t).all()
    indices, t = interpolative_decomposition(np.zeros((5, 3)), rank=2)
    assert len(indices) == 2 and np.array_equal(t[:, indices], np.eye(2))


def test_small_singular_values_use_qr(monkeypatch):
    """The singular values of this Vandermonde matrix decrease to 1e-16: QR is used where necessary, and only there."""
    z = np.vander(np.linspace(0, 1, 500), 24)
    routes = []
    for name in ("pivoted_cholesky", "pivoted_qr"):
        function = getattr(decomposition, name)
        monkeypatch.setattr(decomposition, name, lambda m, n=name, f=function: (routes.append(n), f(m))[1])
    sizes = []
    for eps in (1e-3, 1e-10, 1e-12):
        routes.clear()
        indices, t = interpolative_decomposition(z, eps=eps)
        sizes.append((len(indices), routes[-1]))
        assert np.linalg.norm(z - z[:, indices] @ t) < 100 * eps * np.linalg.norm(z)
    assert [route for _, route in sizes] == ["pivoted_cholesky", "pivoted_qr", "pivoted_qr"]
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert interpolative_decomposition(iter([z[:100], z[100:]]), eps=1e-12)[0].tolist() == indices.tolist()
    interpolative_decomposition(z, rank=18)
    assert routes[-1] == "pivoted_qr"


def test_large_values_do_not_overflow():
    z = random_matrix(5, rank=3) * 1e200
    indices, t = interpolative_decomposition(z, eps=1e-6)
    assert len(indices) == 3 and np.allclose(z[:, indices] @ t, z, rtol=1e-6, atol=1e188)


def test_all_input_types_agree():
    z = random_matrix(6, 1000, 16)
    expected, t = interpolative_decomposition(z, rank=6)
    blocks = [z[:10], z[10:700], z[700:]]
    kinds = [
        blocks,
        tuple(blocks),
        iter(blocks),
        (block for block in blocks),
        z.astype(np.float32),
        z.tolist() and np.asfortranarray(z),
    ]
    for kind in kinds:
        indices, other = interpolative_decomposition(kind, rank=6)
        assert (
            isinstance(indices, np.ndarray)
            and indices.tolist() == expected.tolist()
            and np.allclose(other, t, atol=1e-4)
        )
    for kind in (torch.from_numpy(z), torch.from_numpy(z).float(), [torch.from_numpy(block) for block in blocks]):
        indices, other = interpolative_decomposition(kind, rank=6)
        assert isinstance(other, torch.Tensor) and indices.tolist() == expected.tolist()
        complete = kind if isinstance(kind, torch.Tensor) else torch.cat(kind)
        assert other.dtype == complete.dtype
        assert (complete - complete[:, indices] @ other).norm() < complete.norm()
    assert interpolative_decomposition(torch.randn(9, 4).half(), rank=2)[1].dtype == torch.float32
    assert interpolative_decomposition(np.arange(12).reshape(4, 3) % 5, rank=2)[1].dtype == np.float64


def test_fewer_rows_than_columns_are_reproduced():
    z = random_matrix(7, 5, 12)
    indices, t = interpolative_decomposition(z, rank=8)
    assert np.allclose(z[:, indices] @ t, z)


@pytest.mark.parametrize(
    ("z", "arguments", "message"),
    [
        (np.ones((4, 3)), {}, "neither rank nor eps"),
        (np.ones((4, 3)), {"rank": 0}, "rank 0"),
        (np.ones((4, 3)), {"rank": 4}, "expected 1 to 3"),
        (np.ones((4, 3)), {"eps": 1.0}, "eps"),
        (np.ones((4, 3)), {"eps": -1e-3}, "eps"),
        (np.ones((4, 3)), {"eps": float("nan")}, "eps"),
        (np.full((4, 3), np.nan), {"rank": 1}, "nan"),
        (np.full((4, 3), np.inf), {"eps": 0.1}, "infinities"),
        (np.ones(4), {"rank": 1}, "rows"),
        (np.ones((4, 0)), {"rank": 1}, "rows"),
        (np.ones((4, 3), dtype=complex), {"rank": 1}, "real"),
        ([], {"rank": 1}, "no row block"),
        (3.0, {"rank": 1}, "iterable"),
        ([np.ones((4, 3)), np.ones((4, 2))], {"rank": 1}, "3 and 2 columns"),
    ],
)
def test_invalid_input_raises(z, arguments, message):
    with pytest.raises(UserError, match=message):
        interpolative_decomposition(z, **arguments)


def test_streamed_sums_equal_direct_products():
    z = torch.randn(5000, 7)
    gram, running_qr = Gram(7), RunningQR(7)
    for block in z.split(333):
        gram.add(block)
        running_qr.add(block)
    exact = (z.double().T @ z.double()).numpy()
    assert gram.count == running_qr.count == 5000 and gram.matrix().dtype == np.float64
    assert np.allclose(gram.matrix(), exact, rtol=1e-12)
    r = running_qr.matrix()
    assert np.allclose(r.T @ r, exact, rtol=1e-10)
    assert np.allclose(np.abs(np.diag(pivoted_qr(r).r)), np.abs(np.diag(pivoted_cholesky(exact).r)), rtol=1e-9)
    wide = torch.randn(300, 200)
    gram = Gram(200)
    gram.add(wide)
    assert np.allclose(gram.matrix(), (wide.double().T @ wide.double()).numpy(), rtol=1e-12, atol=1e-12)


def test_least_squares_handles_dependent_columns():
    z = random_matrix(8, 50, 6)
    z[:, 3] = z[:, 0]
    kept = [0, 3, 5]
    t = least_squares(z.T @ z, kept, z.T @ z)
    refit = np.linalg.lstsq(z[:, kept], z, rcond=None)[0]
    assert np.linalg.norm(z - z[:, kept] @ t) == pytest.approx(np.linalg.norm(z - z[:, kept] @ refit), rel=1e-9)
