"""Types of tensors' elements in a compressed file, without torch."""

from __future__ import annotations

import math

import numpy as np

UNSIGNED: dict[str, type] = {  # code in the file: unsigned integer type of the same size
    "f8": np.uint64,
    "f4": np.uint32,
    "f2": np.uint16,
    "b2": np.uint16,
    "i8": np.uint64,
    "i4": np.uint32,
    "i2": np.uint16,
    "i1": np.uint8,
    "u1": np.uint8,
    "?": np.uint8,
    "c8": np.uint64,
}
MAX_DIMENSIONS = 16


def count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


def item_size(code: str) -> int:
    """Return the number of bytes of an element."""
    return np.dtype(UNSIGNED[code]).itemsize
