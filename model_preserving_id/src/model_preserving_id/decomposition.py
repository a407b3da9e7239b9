"""The interpolative decomposition: Z ~= Z[:, I] T with k columns of Z itself, and T[:, I] the identity.

Chee, Flynn, Damle, De Sa, "Model Preserving Compression for Neural Networks", NeurIPS 2022 (first as "Pruning Neural
Networks with Interpolative Decompositions", arXiv 2108.00065). From Z P = Q [R_11 R_12; 0 R_22]: I is the first k pivots
and T = [Id, R_11^-1 R_12] in the original order of columns. ||Z - Z_I T|| = ||R_22||, in both norms.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from model_preserving_id.pivoted import Pivoted, pivoted_cholesky, pivoted_qr
from model_preserving_id.rows import Gram, Triangle, as_rows

MARGIN = 10.0  # an answer is taken from the Gram matrix where it lies this many times above what rounding leaves of it


def interpolative_decomposition(Z, rank: int | None = None, eps: float | None = None):
    """(I, T) with Z ~= Z[:, I] @ T: I (k,) in the order of the pivots (so I[:j] is the choice of rank j), T (k, n).

    Z: an array or tensor (m, n), or an iterable of row blocks (m_i, n), which is read block by block and never held.
    rank: k. eps: the smallest k with |r_k+1,k+1| <= eps |r_11|; with both, that k but at most ``rank``.
    T has the type of Z; both are numpy arrays, or tensors on the device of Z if that is what it is made of.
    Sums run in float64. The Gram matrix and its pivoted Cholesky factor answer where they can; where rounding hides the
    answer from them, a QR of Z does, in a second pass. An iterator can be read only once: it is reduced by QR at once if
    it yields float64 or eps is too small for a Gram matrix.
    Raises UserError for no rank and no eps, a rank beyond n, shapes that do not fit, infinities and nan.
    """
    if rank is None and eps is None:
        raise UserError("interpolative_decomposition needs a rank or an eps")
    if eps is not None and not 0 <= eps < 1:
        raise UserError(f"eps {eps} is out of range: expected 0 <= eps < 1")
    rows = _Rows.of(Z)
    if rank is not None and not 1 <= rank <= rows.width:
        raise UserError(f"rank {rank} is out of range: a matrix of {rows.width} columns has ranks 1 to {rows.width}")
    pivoted = factor_rows(rows, rank, eps)
    k = rank or rows.width
    if eps is not None:
        k = min(k, pivoted.rank_for(eps))
    return rows.like_these(pivoted.order[:k]), rows.like_these(pivoted.interpolation(k))


def factor_rows(rows: "_Rows", rank: int | None, eps: float | None) -> Pivoted:
    """Pivoted R of the rows, by the cheapest route that can tell this rank or eps."""
    only_once = rows.again is None
    if not (only_once and (rows.dtype == torch.float64 or not _gram_can_tell(eps, rows.width))):
        gram = Gram(rows.width)
        for block in rows.read():
            gram.add(block)
        matrix = gram.matrix()
        if np.isfinite(matrix).all() or only_once:  # squares of large numbers may overflow where the numbers do not
            pivoted = pivoted_cholesky(matrix)
            if only_once or _answered(pivoted, rank, eps):
                return pivoted
    triangle = Triangle(rows.width)
    for block in rows.read():
        triangle.add(block)
    return pivoted_qr(triangle.matrix())


def _gram_can_tell(eps: float | None, width: int) -> bool:
    return eps is None or eps >= MARGIN * np.sqrt(width * np.finfo(np.float64).eps)


def _answered(pivoted: Pivoted, rank: int | None, eps: float | None) -> bool:
    """Whether rounding in the Gram matrix leaves both the rank asked for and the pivot that eps decides on visible."""
    first = pivoted.diagonal[0]
    needed = first * eps if eps is not None else 0.0
    if eps is not None and needed >= MARGIN * pivoted.floor:
        return True
    return eps is None and rank is not None and bool(pivoted.diagonal[rank - 1] >= MARGIN * pivoted.floor)


@dataclass
class _Rows:
    """Z as a source of row blocks. ``again`` yields all of them, as often as wanted; None for an iterator."""

    width: int
    dtype: torch.dtype
    device: torch.device
    tensors: bool
    again: Iterable | None
    once: Iterator | None = None

    @staticmethod
    def of(z) -> "_Rows":
        whole = isinstance(z, np.ndarray | Tensor)
        blocks: Iterable = (z,) if whole else z
        once = None
        if not whole:
            try:
                once = iter(z)
            except TypeError:
                raise UserError(
                    f"expected an array, a tensor or an iterable of row blocks, got {type(z).__name__}"
                ) from None
        first = next(iter(blocks) if once is None else once, None)
        if first is None:
            raise UserError("there is no row block to decompose")
        rows = as_rows(first)
        again = None if once is z else blocks
        return _Rows(
            rows.shape[1],
            rows.dtype,
            rows.device,
            isinstance(first, Tensor),
            again,
            chain([first], once) if again is None and once is not None else None,
        )

    def read(self) -> Iterator[Tensor]:
        for block in self.again if self.again is not None else self.once or ():
            rows = as_rows(block)
            if rows.shape[1] != self.width:
                raise UserError(f"row blocks of {self.width} and of {rows.shape[1]} columns do not fit together")
            yield rows

    def like_these(self, array: np.ndarray):
        """numpy or tensor, as the rows are; floating numbers in their type (half precision as float32)."""
        if array.dtype == np.float64 and self.dtype != torch.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(array.copy()).to(self.device) if self.tensors else array
