"""Relative positions of the non-zero weights (Deep Compression, arXiv 1510.00149, section 2, figure 2).

A position is stored as the difference to the one before it, in b bits: the stored number d means a gap of d + 1, so gaps
of 1 to 2^b fit. A larger gap is bridged by fillers, entries of the largest gap whose value is zero.
"""

from __future__ import annotations

import numpy as np

MAX_INDEX_BITS = 16


def encode_positions(positions: np.ndarray, bits: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Gaps (E,) uint16 of ascending positions (P,), and for each position its entry (P,) int64; the others are fillers.

    With `size`, the number of all places, the zeros after the last position are bridged too as far as whole fillers go,
    so that E x 2^b bounds the size. Raises ValueError for bits outside 1..16 or positions that do not ascend.
    """
    if not 1 <= bits <= MAX_INDEX_BITS:
        raise ValueError(f"positions take 1 to {MAX_INDEX_BITS} bits, not {bits}")
    positions = np.asarray(positions, np.int64)
    before = np.diff(positions, prepend=-1) - 1  # zeros between one and the next
    if (before < 0).any():
        raise ValueError("positions must ascend from 0")
    fillers = before >> bits
    entry = np.cumsum(fillers + 1) - 1
    last = int(positions[-1]) if len(positions) else -1
    trailing = 0 if size is None else (size - 1 - last) >> bits
    gaps = np.full((int(entry[-1]) + 1 if len(entry) else 0) + trailing, (1 << bits) - 1, np.uint16)
    gaps[entry] = before & ((1 << bits) - 1)
    return gaps, entry


def decode_positions(gaps: np.ndarray) -> np.ndarray:
    """Position (E,) int64 of every entry, fillers included."""
    return np.cumsum(np.asarray(gaps).astype(np.int64) + 1) - 1


def count_fillers(positions: np.ndarray, bits: int) -> int:
    """Fillers between these ascending positions: the sum of floor((gap - 1) / 2^b)."""
    before: np.ndarray = np.diff(np.asarray(positions, np.int64), prepend=-1) - 1
    return int((before >> bits).sum())


def gap_histogram(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Distinct numbers of zeros before a position, how often each occurs, and the zeros after the last position."""
    before = np.diff(np.asarray(positions, np.int64), prepend=-1) - 1
    last = int(positions[-1]) if len(positions) else -1
    if len(before) and int(before.max()) < 1 << 20:
        counts = np.bincount(before)
        zeros = np.flatnonzero(counts)
        return zeros, counts[zeros], size - 1 - last
    zeros, counts = np.unique(before, return_counts=True)
    return zeros, counts, size - 1 - last


def stored_histogram(zeros: np.ndarray, counts: np.ndarray, trailing: int, bits: int) -> tuple[np.ndarray, int]:
    """How often each stored gap 0..2^b-1 occurs with these bits, fillers included, and the number of fillers."""
    width = 1 << bits
    stored = np.bincount(zeros & (width - 1), weights=counts, minlength=width).astype(np.int64)
    fillers = int(((zeros >> bits) * counts).sum()) + (trailing >> bits)
    stored[width - 1] += fillers
    return stored, fillers
