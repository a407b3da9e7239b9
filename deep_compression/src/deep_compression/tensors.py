"""Conversion of tensors to bit patterns. Bits are compared, counted and stored, so -0.0, NaN and all dtypes are exact."""

from __future__ import annotations

import numpy as np
import torch

from deep_compression.elements import UNSIGNED

DTYPES: dict[
    str, tuple[torch.dtype, type]
] = {  # code in the file: (torch dtype, unsigned integer type of the same size)
    code: (dtype, UNSIGNED[code])
    for code, dtype in {
        "f8": torch.float64,
        "f4": torch.float32,
        "f2": torch.float16,
        "b2": torch.bfloat16,
        "i8": torch.int64,
        "i4": torch.int32,
        "i2": torch.int16,
        "i1": torch.int8,
        "u1": torch.uint8,
        "?": torch.bool,
        "c8": torch.complex64,
    }.items()
}
CODES = {dtype: code for code, (dtype, _) in DTYPES.items()}


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
