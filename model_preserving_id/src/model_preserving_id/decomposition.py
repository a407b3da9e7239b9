"""Interpolative decomposition (ID): Z ~= Z[:, I] T, where I are k columns of Z and T[:, I] is the identity.

Chee, Flynn, Damle, De Sa, "Model Preserving Compression for Neural Networks", NeurIPS 2022 (first as "Pruning Neural
Networks with Interpolative Decompositions", arXiv 2108.00065). With Z P = Q [R_11 R_12; 0 R_22], I is the first k pivots and
T = [Id, R_11^-1 R_12] in the original order of columns. ||Z - Z_I T|| = ||R_22|| in the spectral and the Frobenius norm.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from model_preserving_id.gram import Gram, RunningQR, as_rows
from model_preserving_id.pivoted import PivotedFactor, pivoted_cholesky, pivoted_qr

MARGIN = 10.0  # the Gram matrix is used if the required pivot is this many times its rounding error


def interpolative_decomposition(Z: Any, rank: int | None = None, eps: float | None = None) -> tuple[Any, Any]:
    """Compute (I, T) with Z ~= Z[:, I] @ T.

    All sums are in float64. R comes from a pivoted Cholesky factorization of the Gram matrix Z^T Z, or, where its rounding
    errors are too large, from a QR of Z in a second pass. An iterator can be read only once: it is reduced by QR from the
    start if it yields float64 or if eps is too small for a Gram matrix.

    Args:
        Z: An array or tensor (m, n), or an iterable of row blocks (m_i, n), which are read one by one and not stored.
        rank: The rank k.
        eps: Choose the smallest k with |r_{k+1,k+1}| <= eps |r_11|, in [0, 1). With both, k is at most ``rank``.

    Returns:
        I (k,), in the order of the pivots, such that I[:j] is the selection of rank j, and T (k, n), of the type of Z. Both are numpy arrays, or tensors on the device of Z if Z consists of tensors.

    Raises:
        UserError: If neither rank nor eps is given, either is out of range, shapes do not match, or Z is not finite.
    """
    if rank is None and eps is None:
        raise UserError("interpolative_decomposition: neither rank nor eps is given; give one of them")
    if eps is not None and not 0 <= eps < 1:
        raise UserError(f"eps {eps} is out of range: expected 0 <= eps < 1")
    rows = _RowSource.of(Z)
    if rank is not None and not 1 <= rank <= rows.width:
        raise UserError(f"rank {rank} is out of range: expected 1 to {rows.width}, the number of columns")
    pivoted = factor_rows(rows, rank, eps)
    k = rank or rows.width
    if eps is not None:
        k = min(k, pivoted.rank_for(eps))
    return rows.convert(pivoted.order[:k]), rows.convert(pivoted.interpolation(k))


def factor_rows(rows: "_RowSource", rank: int | None, eps: float | None) -> PivotedFactor:
    """Compute the pivoted R of the rows, by the fastest method that resolves this rank or eps."""
    only_once = rows.again is None
    if not (only_once and (rows.dtype == torch.float64 or not _gram_resolves(eps, rows.width))):
        gram = Gram(rows.width)
        for block in rows.read():
            gram.add(block)
        matrix = gram.matrix()
        if np.isfinite(matrix).all() or only_once:  # squares of finite numbers may overflow
            pivoted = pivoted_cholesky(matrix)
            if only_once or _is_resolved(pivoted, rank, eps):
                return pivoted
    running_qr = RunningQR(rows.width)
    for block in rows.read():
        running_qr.add(block)
    return pivoted_qr(running_qr.matrix())


def _gram_resolves(eps: float | None, width: int) -> bool:
    return eps is None or eps >= MARGIN * np.sqrt(width * np.finfo(np.float64).eps)


def _is_resolved(pivoted: PivotedFactor, rank: int | None, eps: float | None) -> bool:
    """Whether the pivots that rank and eps depend on are above the Gram matrix's rounding error."""
    first = pivoted.diagonal[0]
    needed = first * eps if eps is not None else 0.0
    if eps is not None and needed >= MARGIN * pivoted.floor:
        return True
    return eps is None and rank is not None and bool(pivoted.diagonal[rank - 1] >= MARGIN * pivoted.floor)


@dataclass
class _RowSource:
    """Z as a source of row blocks. ``again`` can be iterated several times; it is None for an iterator."""

    width: int
    dtype: torch.dtype
    device: torch.device
    tensors: bool
    again: Iterable | None
    once: Iterator | None = None

    @staticmethod
    def of(z) -> "_RowSource":
        complete = isinstance(z, np.ndarray | Tensor)
        blocks: Iterable = (z,) if complete else z
        once = None
        if not complete:
            try:
                once = iter(z)
            except TypeError:
                raise UserError(
                    f"expected an array, a tensor or an iterable of row blocks, got {type(z).__name__}"
                ) from None
        first = next(iter(blocks) if once is None else once, None)
        if first is None:
            raise UserError("Z has no row block; give at least one")
        rows = as_rows(first)
        again = None if once is z else blocks
        return _RowSource(
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
                raise UserError(f"row blocks have {self.width} and {rows.shape[1]} columns; expected equal numbers")
            yield rows

    def convert(self, array: np.ndarray):
        """Convert a numpy array to the rows' container and floating-point type (float32 for half precision)."""
        if array.dtype == np.float64 and self.dtype != torch.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(array.copy()).to(self.device) if self.tensors else array
