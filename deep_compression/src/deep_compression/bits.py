"""Packing of variable-length and fixed-width codes into bytes, most significant bit first, vectorized over symbols."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 20  # codes packed at a time, to bound the memory of 64-bit temporaries


def pack_codes(ranks: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> tuple[bytes, int]:
    """Write codes[r] in lengths[r] bits for each r in ranks; return the bytes (zero-padded) and the number of bits."""
    codes = np.asarray(codes, np.uint64)
    lengths = np.asarray(lengths, np.uint64)
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > 32:
        raise ValueError(f"codes of at most 32 bits can be packed, not {longest}")
    group = 4 if longest <= 16 else 2
    total = int(np.bincount(ranks, minlength=len(lengths)) @ lengths.astype(np.int64)) if len(ranks) else 0
    words = np.zeros(total // 64 + 2, np.uint64)
    at = 0
    for first in range(0, len(ranks), BLOCK):
        at = _pack_block(ranks[first : first + BLOCK], codes, lengths, group, words, at)
    return words.astype(">u8").tobytes()[: (total + 7) // 8], total


def _pack_block(ranks, codes, lengths, group, words, at):
    """OR one block of codes into the words, starting at bit `at`; return the position after the last bit."""
    code, size = codes.take(ranks), lengths.take(ranks)
    if missing := -len(ranks) % group:
        code, size = (np.concatenate((x, np.zeros(missing, np.uint64))) for x in (code, size))
    while group > 1:  # concatenate two adjacent codes, then four, into one of at most 64 bits
        code = code[0::2] << size[1::2] | code[1::2]
        size = size[0::2] + size[1::2]
        group //= 2
    end = np.cumsum(size) + np.uint64(at)
    start = end - size
    offset = start & np.uint64(63)
    word = (start >> np.uint64(6)).astype(np.int64)
    aligned = code << (np.uint64(64) - size)  # NumPy: a shift by 64 gives 0
    running = np.cumsum(aligned >> offset)  # the bits are disjoint: the sum is an OR, and its differences are exact
    last = np.append(np.flatnonzero(word[1:] != word[:-1]), len(word) - 1)
    sums = running[last]
    sums[1:] -= running[last[:-1]]
    words[word[last]] |= sums
    crossing = np.flatnonzero(offset + size > np.uint64(64))
    words[word[crossing] + 1] |= aligned[crossing] << (np.uint64(64) - offset[crossing])
    return int(end[-1])


def windows(payload: bytes | memoryview) -> np.ndarray:
    """Return the 32 bits that start at each byte of the payload (and one byte after it), padded with zeros."""
    padded = bytes(payload) + b"\0" * 8
    return np.ndarray((len(padded) - 7,), ">u4", padded, strides=(1,)).astype(np.uint32)


def pack_fixed(values: np.ndarray, width: int) -> bytes:
    """Pack each value in `width` bits (1 to 24)."""
    values = np.asarray(values)
    if width == 8:
        return values.astype(np.uint8).tobytes()
    if width == 16:
        return values.astype(">u2").tobytes()
    bits = (values[:, None].astype(np.uint32) >> np.arange(width - 1, -1, -1, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_fixed(payload: bytes | memoryview, width: int, count: int) -> np.ndarray:
    """Unpack `count` values of `width` bits as uint32. Raises ValueError unless the payload has exactly that size."""
    if not 1 <= width <= 24 or len(payload) != (count * width + 7) // 8:
        raise ValueError(f"the stream is damaged: {count} codes of {width} bits do not fill {len(payload)} bytes")
    out = np.empty(count, np.uint32)
    for first in range(0, count, BLOCK):  # BLOCK x width is a multiple of 8, so each block starts at a byte
        number = min(BLOCK, count - first)
        at = np.arange(number, dtype=np.int64) * width
        begin = first * width // 8
        view = windows(payload[begin : begin + (number * width + 7) // 8])
        found = view.take(at >> 3)
        found <<= (at & 7).astype(np.uint32)
        found >>= np.uint32(32 - width)
        out[first : first + number] = found
    return out
