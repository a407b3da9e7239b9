"""Stand-ins for the NumPy arrays in a pickle (:mod:`common.plain_pickle`): no class of NumPy is made from what a file says."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from common.plain_pickle import Constructors, latin1_encoder

MAX_DIMENSIONS = 4
BYTES: Collection[str] = ("u1",)
NUMBERS: Collection[str] = ("f2", "f4", "f8")


class PickledArray:
    """Stand-in for an array: keeps the state that the pickle sets."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state

    def array(self, types: Collection[str] = BYTES) -> np.ndarray | None:
        """Return the array, read-only and without a copy, if it has one of these types and its shape matches; else None."""
        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            return None
        _, shape, kind, fortran, data = self.state
        dtype = kind.dtype(types) if isinstance(kind, PickledType) else None
        if dtype is None or type(data) is not bytes:
            return None
        if not (isinstance(shape, tuple) and 1 <= len(shape) <= MAX_DIMENSIONS and all(type(n) is int for n in shape)):
            return None
        if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            return None
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran is True else "C")


class PickledType:
    """Stand-in for a dtype: its name, such as "f4", and its byte order."""

    def __init__(self, text: Any = None, *_: Any) -> None:
        self.text = text.decode("latin1") if isinstance(text, bytes) else text
        self.order: Any = "<"

    def set_state(self, state: Any) -> None:
        """Keep the byte order; alignment and metadata do not apply."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def dtype(self, types: Collection[str]) -> np.dtype | None:
        """Return the type, if it is one of ``types``; else None."""
        if not isinstance(self.text, str) or self.text not in types:
            return None
        return np.dtype((self.order if self.order in ("<", ">") else "=") + self.text)


def array_constructors(size: int) -> Constructors:
    """Return what a pickle of plain values and arrays, of ``size`` bytes, may call."""
    return {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): PickledType,
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): PickledArray,
        ("_codecs", "encode"): latin1_encoder(size),
    }
