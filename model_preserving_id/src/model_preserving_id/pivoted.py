"""Column-pivoted triangular factors Z P = Q R, from the Gram matrix of Z or from Z itself; Q is not computed.

G. H. Golub, Numerische Mathematik 7 (1965): QR with column pivoting. N. J. Higham, "Analysis of the Cholesky decomposition
of a semi-definite matrix" (1990): the pivoted Cholesky factor of Z^T Z is the same R.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # submodules are imported on first use

from common.errors import UserError

ROUNDOFF = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class PivotedFactor:
    """R of a matrix Z (m, n) with columns in pivot order, without the rows that are zero up to rounding errors.

    Attributes:
        order: (n,) column indices of Z in pivot order; the first k are the index set I of rank k, for every k.
        r: (rank, n) upper trapezoidal, |r_11| >= |r_22| >= ...
        floor: Entries |r_kk| up to this value are rounding errors.
    """

    order: np.ndarray
    r: np.ndarray
    floor: float

    @property
    def rank(self) -> int:
        """Numerical rank: the number of pivots above the floor."""
        return len(self.r)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Values |r_kk|, (n + 1,), non-increasing; zero beyond the numerical rank, so that every index k <= n is defined."""
        values = np.zeros(len(self.order) + 1)
        values[: self.rank] = np.minimum.accumulate(np.abs(np.diag(self.r))) if self.rank else []
        return values

    def relative_error(self, k: int) -> float:
        """Return |r_{k+1,k+1}| / |r_11|, the paper's error of rank k; 0 for a zero matrix."""
        first = self.diagonal[0]
        return float(self.diagonal[k] / first) if first > 0 else 0.0

    def frobenius_error(self, k: int) -> float:
        """Return ||Z - Z_I T||_F / ||Z||_F = ||R_22||_F / ||R||_F at rank k."""
        total = np.linalg.norm(self.r)
        return float(np.linalg.norm(self.r[k:]) / total) if total > 0 else 0.0

    def rank_for(self, eps: float) -> int:
        """Return the smallest k >= 1 with |r_{k+1,k+1}| <= eps |r_11|."""
        within = self.diagonal <= eps * self.diagonal[0]
        return max(1, int(np.argmax(within)))

    def interpolation(self, k: int) -> np.ndarray:
        """Return T (k, n): the identity at the first k pivots, R_11^-1 R_12 elsewhere; rows beyond the numerical rank are zero there."""
        kept, rest, known = self.order[:k], self.order[k:], min(k, self.rank)
        t = np.zeros((k, len(self.order)))
        t[np.arange(k), kept] = 1.0
        if known and len(rest):
            t[:known, rest] = scipy.linalg.solve_triangular(self.r[:known, :known], self.r[:known, k:])
        return t


def pivoted_cholesky(gram: np.ndarray) -> PivotedFactor:
    """Factor Z^T Z (n, n), float64. |r_kk| is resolved down to about sqrt(n u) |r_11|, u = 1e-16; smaller values count as zero."""
    n = len(gram)
    largest = float(np.max(np.diag(gram), initial=0.0))
    if not np.isfinite(gram).all():
        raise UserError("the activations contain infinities or nan; check the network and its inputs")
    if largest <= 0:
        return PivotedFactor(np.arange(n), np.zeros((0, n)), 0.0)
    tolerance = n * ROUNDOFF * largest
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(gram, tol=tolerance)
    return PivotedFactor(pivots.astype(np.int64) - 1, np.triu(factor)[:rank], float(np.sqrt(tolerance)))


def pivoted_qr(factor: np.ndarray) -> PivotedFactor:
    """Factor Z itself, or R of an unpivoted Z = QR, (m, n) float64. |r_kk| is resolved down to about n u |r_11|."""
    m, n = factor.shape
    if not np.isfinite(factor).all():
        raise UserError("the activations contain infinities or nan; check the network and its inputs")
    r, order = scipy.linalg.qr(factor, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diag(r))
    floor = max(m, n) * ROUNDOFF * float(diagonal[0])
    rank = int(np.count_nonzero(diagonal > floor))
    return PivotedFactor(order.astype(np.int64), r[:rank], floor)


def least_squares(gram: np.ndarray, kept: Sequence[int], products: np.ndarray) -> np.ndarray:
    """Return T (len(kept), m) that minimizes ||Y - Z[:, kept] T||_F, from Z^T Z (n, n) and ``products`` = Z^T Y (n, m).

    Rows of T for columns that depend linearly on the other kept columns are zero.
    """
    rows = np.asarray(kept, dtype=np.int64)
    t = np.zeros((len(rows), products.shape[1]))
    pivoted = pivoted_cholesky(gram[np.ix_(rows, rows)])
    used = pivoted.order[: pivoted.rank]
    if len(used):
        t[used] = scipy.linalg.cho_solve(
            (pivoted.r[:, : pivoted.rank], False), products[rows[used]], check_finite=False
        )
    return t
