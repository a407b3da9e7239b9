"""Lossless storage of unshared values (biases, normalization layers, counters), deflated where that is smaller.

Layout: method (1 byte: stored, deflated, planes deflated), then the bytes. Planes group byte j of all elements of one
size, so that rounded or small values, whose low or high bytes are zero, take little space.
"""

from __future__ import annotations

import zlib

import numpy as np

from deep_compression.coded_stream import inflate
from deep_compression.cursor import Cursor, Parts

STORED, DEFLATED, PLANES = range(3)
DEFLATE_UP_TO = 1 << 26  # bytes; larger data are stored, since deflate takes a second per 30 MB


def encode_raw(arrays: list[np.ndarray], category: str) -> Parts:
    """Encode arrays of unsigned integers one after another."""
    stored = b"".join(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays)
    tried = [(STORED, stored)]
    if len(stored) <= DEFLATE_UP_TO:
        tried += [(DEFLATED, zlib.compress(stored, 9)), (PLANES, zlib.compress(_planes(arrays), 9))]
    method, data = min(tried, key=lambda item: (len(item[1]), item[0]))
    return [("block fields", bytes([method])), (category, data)]


def decode_raw(cursor: Cursor, sizes: list[tuple[int, type]], category: str, skip: bool = False) -> list[np.ndarray]:
    """Decode the arrays, given as (number of elements, unsigned type), in the rest of the block. Raises ValueError."""
    method = cursor.byte("block fields")
    data: memoryview | bytes = cursor.take(len(cursor.data) - cursor.at, category)
    total = sum(number * np.dtype(unsigned).itemsize for number, unsigned in sizes)
    if method not in (STORED, DEFLATED, PLANES) or (method == STORED and len(data) != total):
        raise ValueError("the file is damaged: unknown method or wrong size of unshared tensors")
    if skip:
        return []
    if method != STORED:
        data = inflate(data, total)
    return _from_planes(data, sizes) if method == PLANES else _split(data, sizes)


def _split(data, sizes):
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
