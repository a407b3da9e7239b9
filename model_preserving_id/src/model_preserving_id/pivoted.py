"""Column-pivoted triangular factors Z P = Q R, from Z's Gram matrix or from Z itself; Q is never formed.

G. H. Golub, Numerische Mathematik 7 (1965): QR with column pivoting. N. J. Higham, "Analysis of the Cholesky decomposition
of a semi-definite matrix" (1990): the pivoted Cholesky factor of Z^T Z is the same R.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its parts are imported when they are used

from common.errors import UserError

ROUNDOFF = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pivoted:
    """R of a matrix Z (m, n) with its columns in the order of the pivots; rows that could not be told from zero are cut off.

    order  (n,) column of Z at each place; the first k of it are the index set I of rank k, for every k
    r      (rank, n) upper trapezoidal, |r_11| >= |r_22| >= ...
    floor  entries r_kk of this size or below are rounding
    """

    order: np.ndarray
    r: np.ndarray
    floor: float

    @property
    def rank(self) -> int:
        """The numerical rank: how many pivots are above the floor."""
        return len(self.r)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """(n + 1,) values |r_kk|, not ascending; zero from the numerical rank on, so that index k is defined for all k <= n."""
        values = np.zeros(len(self.order) + 1)
        values[: self.rank] = np.minimum.accumulate(np.abs(np.diag(self.r))) if self.rank else []
        return values

    def relative_error(self, k: int) -> float:
        """|r_{k+1,k+1}| / |r_11|, the paper's measure of what rank k leaves out; 0 for a matrix of zeros."""
        first = self.diagonal[0]
        return float(self.diagonal[k] / first) if first > 0 else 0.0

    def frobenius_error(self, k: int) -> float:
        """||Z - Z_I T||_F / ||Z||_F = ||R_22||_F / ||R||_F at rank k."""
        total = np.linalg.norm(self.r)
        return float(np.linalg.norm(self.r[k:]) / total) if total > 0 else 0.0

    def rank_for(self, eps: float) -> int:
        """The smallest k >= 1 with |r_{k+1,k+1}| <= eps |r_11|."""
        within = self.diagonal <= eps * self.diagonal[0]
        return max(1, int(np.argmax(within)))

    def interpolation(self, k: int) -> np.ndarray:
        """T (k, n) of rank k: identity at the first k pivots, R_11^-1 R_12 elsewhere; rows beyond the numerical rank add nothing."""
        kept, rest, known = self.order[:k], self.order[k:], min(k, self.rank)
        t = np.zeros((k, len(self.order)))
        t[np.arange(k), kept] = 1.0
        if known and len(rest):
            t[:known, rest] = scipy.linalg.solve_triangular(self.r[:known, :known], self.r[:known, k:])
        return t


def pivoted_cholesky(gram: np.ndarray) -> Pivoted:
    """Factor Z^T Z (n, n), float64. It resolves |r_kk| down to about sqrt(n u) |r_11|, u = 1e-16; the rest counts as zero."""
    n = len(gram)
    largest = float(np.max(np.diag(gram), initial=0.0))
    if not np.isfinite(gram).all():
        raise UserError("the activations hold infinities or nan; check the network and its inputs")
    if largest <= 0:
        return Pivoted(np.arange(n), np.zeros((0, n)), 0.0)
    tolerance = n * ROUNDOFF * largest
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(gram, tol=tolerance)
    return Pivoted(pivots.astype(np.int64) - 1, np.triu(factor)[:rank], float(np.sqrt(tolerance)))


def pivoted_qr(factor: np.ndarray) -> Pivoted:
    """Factor Z itself, or any R of an unpivoted Z = QR, (m, n) float64. It resolves |r_kk| down to about n u |r_11|."""
    m, n = factor.shape
    if not np.isfinite(factor).all():
        raise UserError("the activations hold infinities or nan; check the network and its inputs")
    r, order = scipy.linalg.qr(factor, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diag(r))
    floor = max(m, n) * ROUNDOFF * float(diagonal[0])
    rank = int(np.count_nonzero(diagonal > floor))
    return Pivoted(order.astype(np.int64), r[:rank], floor)


def least_squares(gram: np.ndarray, kept: Sequence[int], products: np.ndarray) -> np.ndarray:
    """T (len(kept), m) that minimises ||Y - Z[:, kept] T||_F, from Z^T Z (n, n) and ``products`` = Z^T Y (n, m).

    Columns among ``kept`` that depend on others of them get rows of zeros.
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
