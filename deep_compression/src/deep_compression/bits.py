"""Packing of variable-length and fixed-width codes into bytes, most significant bit first, without a loop over symbols."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 20  # codes packed at a time: bounds the memory of the 64-bit temporaries


def pack_codes(ranks: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> tuple[bytes, int]:
    """Write codes[r] in lengths[r] bits for each r of ranks; returns the bytes (zero-padded) and the number of bits."""
    codes = np.asarray(codes, np.uint64)
    lengths = np.asarray(lengths, np.uint64)
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > 32:
        raise ValueError("codes of more than 32 bits cannot be packed")
    group = 4 if longest <= 16 else 2
    total = int(np.bincount(ranks, minlength=len(lengths)) @ lengths.astype(np.int64)) if len(ranks) else 0
    words = np.zeros(total // 64 + 2, np.uint64)
    at = 0
    for first in range(0, len(ranks), BLOCK):
        at = _pack_block(ranks[first : first + BLOCK], codes, lengths, group, words, at)
    return words.astype(">u8").tobytes()[: (total + 7) // 8], total


def _pack_block(ranks, codes, lengths, group, words, at):
    """OR one block of codes into the words from bit `at` on; returns the bit after the last."""
    code, size = codes.take(ranks), lengths.take(ranks)
    if missing := -len(ranks) % group:
        code, size = (np.concatenate((x, np.zeros(missing, np.uint64))) for x in (code, size))
    while group > 1:  # two neighbours become one longer code, then four, of at most 64 bits
        code = code[0::2] << size[1::2] | code[1::2]
        size = size[0::2] + size[1::2]
        group //= 2
    end = np.cumsum(size) + np.uint64(at)
    start = end - size
    offset = start & np.uint64(63)
    word = (start >> np.uint64(6)).astype(np.int64)
    aligned = code << (np.uint64(64) - size)  # a shift by 64 gives 0 in NumPy
    running = np.cumsum(aligned >> offset)  # the bits are disjoint: a sum is an OR, and differences of it are exact
    last = np.append(np.flatnonzero(word[1:] != word[:-1]), len(word) - 1)
    sums = running[last]
    sums[1:] -= running[last[:-1]]
    words[word[last]] |= sums
    crossing = np.flatnonzero(offset + size > np.uint64(64))
    words[word[crossing] + 1] |= aligned[crossing] << (np.uint64(64) - offset[crossing])
    return int(end[-1])


def windows(payload: bytes | memoryview) -> np.ndarray:
    """For each byte of the payload (and one after it) the 32 bits from there on; zeros follow the end."""
    padded = bytes(payload) + b"\0" * 8
    return np.ndarray((len(padded) - 7,), ">u4", padded, strides=(1,)).astype(np.uint32)


def pack_fixed(values: np.ndarray, width: int) -> bytes:
    """Each value in `width` bits (1 to 24)."""
    values = np.asarray(values)
    if width == 8:
        return values.astype(np.uint8).tobytes()
    if width == 16:
        return values.astype(">u2").tobytes()
    bits = (values[:, None].astype(np.uint32) >> np.arange(width - 1, -1, -1, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_fixed(payload: bytes | memoryview, width: int, count: int) -> np.ndarray:
    """The inverse, as uint32. Raises ValueError if the payload has not just the right number of bytes."""
    if not 1 <= width <= 24 or len(payload) != (count * width + 7) // 8:
        raise ValueError(f"{count} codes of {width} bits do not fill {len(payload)} bytes")
    out = np.empty(count, np.uint32)
    for first in range(0, count, BLOCK):  # BLOCK x width is a multiple of 8: each block starts on a byte
        number = min(BLOCK, count - first)
        at = np.arange(number, dtype=np.int64) * width
        begin = first * width // 8
        view = windows(payload[begin : begin + (number * width + 7) // 8])
        found = view.take(at >> 3)
        found <<= (at & 7).astype(np.uint32)
        found >>= np.uint32(32 - width)
        out[first : first + number] = found
    return out
