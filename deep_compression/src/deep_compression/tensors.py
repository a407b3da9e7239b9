"""Conversion of tensors to bit patterns. Bits are compared, counted and stored, so -0.0, NaN and all dtypes are exact."""

from __future__ import annotations

import math

import numpy as np
import torch

DTYPES: dict[
    str, tuple[torch.dtype, type]
] = {  # code in the file: (torch dtype, unsigned integer type of the same size)
    "f8": (torch.float64, np.uint64),
    "f4": (torch.float32, np.uint32),
    "f2": (torch.float16, np.uint16),
    "b2": (torch.bfloat16, np.uint16),
    "i8": (torch.int64, np.uint64),
    "i4": (torch.int32, np.uint32),
    "i2": (torch.int16, np.uint16),
    "i1": (torch.int8, np.uint8),
    "u1": (torch.uint8, np.uint8),
    "?": (torch.bool, np.uint8),
    "c8": (torch.complex64, np.uint64),
}
CODES = {dtype: code for code, (dtype, _) in DTYPES.items()}
MAX_DIMENSIONS = 16


def to_bits(tensor: torch.Tensor, name: str = "tensor") -> np.ndarray:
    """Return the elements in row-major order as unsigned integers (N,), without a copy where possible."""
    if tensor.dtype not in CODES:
        raise ValueError(f"{name}: {tensor.dtype} is not supported")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ValueError(f"{name}: only dense (strided) tensors that are not quantized can be stored")
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(DTYPES[CODES[tensor.dtype]][1])


def from_bits(bits: np.ndarray, code: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor of a bit pattern (N,), the inverse of :func:`to_bits`; it shares the array's memory."""
    dtype, unsigned = DTYPES[code]
    flat = torch.from_numpy(np.ascontiguousarray(bits, unsigned).view(np.uint8))
    return flat.view(dtype).reshape(shape)


def count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


def item_size(code: str) -> int:
    """Return the number of bytes of an element."""
    return np.dtype(DTYPES[code][1]).itemsize
