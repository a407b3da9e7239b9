"""Streaming reductions of a tall matrix Z, read in blocks of rows: its Gram matrix, or R of its QR factorization."""

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

BLOCK_ROWS = 4096
WIDE = 128  # columns from which BLAS's symmetric product is faster than torch's on a CPU


class Gram:
    """Z^T Z or Z^T Y (n, n), on the device of the rows; all products are in float64."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, rows: Tensor, others: Tensor | None = None) -> None:
        """Add rows (m, n) of Z, and of Y for Z^T Y, of any floating-point type."""
        if self._sum is None:
            self._sum = torch.zeros(self.width, self.width, dtype=torch.float64, device=rows.device)
        self.count += len(rows)
        size = BLOCK_ROWS if rows.device.type == "cpu" else 16 * BLOCK_ROWS
        for start in range(0, len(rows), size):
            block = rows[start : start + size].double()
            if others is not None:
                self._sum.addmm_(block.T, others[start : start + size].double())
            elif block.device.type == "cpu" and self.width >= WIDE:
                numbers = block.numpy()
                self._sum += torch.from_numpy(numbers.T @ numbers)
            else:
                self._sum.addmm_(block.T, block)

    def matrix(self) -> np.ndarray:
        """Return the matrix, (n, n) float64."""
        return np.zeros((self.width, self.width)) if self._sum is None else self._sum.cpu().numpy()


class RunningQR:
    """R (at most n, n) of Z = QR in float64: repeated QR of [R; next rows] (TSQR, Demmel et al. 2012)."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self._r: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add rows (m, n) of any floating-point type."""
        self.count += len(rows)
        for block in rows.split(max(BLOCK_ROWS, 4 * self.width)):
            stacked = block.double() if self._r is None else torch.cat([self._r, block.double()])
            self._r = torch.linalg.qr(stacked, mode="r").R

    def matrix(self) -> np.ndarray:
        """Return R, (at most n, n) float64."""
        return np.zeros((1, self.width)) if self._r is None else self._r.cpu().numpy()


def as_rows(block) -> Tensor:
    """Convert a block of rows to a tensor (m, n) on its own device. Raises UserError for other shapes and complex numbers."""
    rows = block.detach() if isinstance(block, Tensor) else torch.as_tensor(np.asarray(block))
    if rows.dim() != 2 or not rows.shape[1]:
        raise UserError(f"expected a block of rows (m, n), got shape {tuple(rows.shape)}")
    if rows.is_complex():
        raise UserError("expected real numbers, got complex ones")
    return rows if rows.is_floating_point() else rows.double()
