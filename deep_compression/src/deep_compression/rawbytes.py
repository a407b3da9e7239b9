"""Numbers that are not shared (biases, norms, counters): stored as they are, or losslessly deflated where that is smaller.

Layout: method (1 byte: stored, deflated, planes deflated), then the bytes; with planes, byte j of every number of one size
stands together, so that rounded or small numbers, whose low or high bytes are zero, take little room.
"""

from __future__ import annotations

import zlib

import numpy as np

from deep_compression.cursor import Cursor, Parts
from deep_compression.streams import inflate

STORED, DEFLATED, PLANES = range(3)
DEFLATE_UP_TO = 1 << 26  # bytes; above it only `stored`, since deflate needs a second per 30 MB


def encode_raw(arrays: list[np.ndarray], category: str) -> Parts:
    """Arrays of unsigned integers, one after the other."""
    stored = b"".join(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays)
    tried = [(STORED, stored)]
    if len(stored) <= DEFLATE_UP_TO:
        tried += [(DEFLATED, zlib.compress(stored, 9)), (PLANES, zlib.compress(_planes(arrays), 9))]
    method, data = min(tried, key=lambda item: (len(item[1]), item[0]))
    return [("block fields", bytes([method])), (category, data)]


def decode_raw(cursor: Cursor, sizes: list[tuple[int, type]], category: str, skip: bool = False) -> list[np.ndarray]:
    """Arrays with these (number, unsigned type), from the rest of the block. Raises ValueError."""
    method = cursor.byte("block fields")
    data: memoryview | bytes = cursor.take(len(cursor.data) - cursor.at, category)
    total = sum(number * np.dtype(unsigned).itemsize for number, unsigned in sizes)
    if method not in (STORED, DEFLATED, PLANES) or (method == STORED and len(data) != total):
        raise ValueError("the unshared tensors are damaged")
    if skip:
        return []
    if method != STORED:
        data = inflate(data, total)
    return _from_planes(data, sizes) if method == PLANES else _cut(data, sizes)


def _cut(data, sizes):
    arrays, at = [], 0
    for number, unsigned in sizes:
        dtype = np.dtype(unsigned).newbyteorder("<")
        arrays.append(np.frombuffer(data, dtype, number, at).astype(unsigned))
        at += number * dtype.itemsize
    return arrays


def _planes(arrays) -> bytes:
    out = []
    for size in (1, 2, 4, 8):
        same = [
            a.astype(a.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size) for a in arrays if a.itemsize == size
        ]
        if same:
            out.append(np.concatenate(same).T.tobytes())
    return b"".join(out)


def _from_planes(data, sizes):
    arrays: list[np.ndarray] = [np.zeros(0)] * len(sizes)
    at = 0
    for size in (1, 2, 4, 8):
        chosen = [i for i, (_, unsigned) in enumerate(sizes) if np.dtype(unsigned).itemsize == size]
        number = sum(sizes[i][0] for i in chosen)
        block = np.frombuffer(data, np.uint8, number * size, at).reshape(size, number).T
        at += number * size
        first = 0
        for i in chosen:
            part = np.ascontiguousarray(block[first : first + sizes[i][0]])
            arrays[i] = part.reshape(-1).view(np.dtype(sizes[i][1]).newbyteorder("<")).astype(sizes[i][1])
            first += sizes[i][0]
    return arrays
