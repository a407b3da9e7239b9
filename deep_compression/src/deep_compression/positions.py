"""Relative positions of the nonzero weights (Deep Compression, arXiv 1510.00149, section 2, figure 2).

A position is stored as the difference to the previous one, in b bits: the stored number d means a gap of d + 1, so gaps
of 1 to 2^b fit. A larger gap is bridged by fillers, which are entries with the largest gap and the value zero.
"""

from __future__ import annotations

import numpy as np

MAX_INDEX_BITS = 16


def encode_positions(positions: np.ndarray, bits: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Encode ascending positions (P,) as gaps (E,) uint16, fillers included.

    Args:
        bits: Bits of a gap, 1 to 16.
        size: Number of elements of the tensor. If given, the zeros after the last position are bridged as far as
            complete fillers fit, so that (E + 1) x 2^b bounds the size.

    Returns:
        The gaps, and for each position the index of its entry (P,) int64; all other entries are fillers.

    Raises:
        ValueError: If ``bits`` is out of range or the positions do not ascend.
    """
    if not 1 <= bits <= MAX_INDEX_BITS:
        raise ValueError(f"index bits must be 1 to {MAX_INDEX_BITS}, not {bits}")
    positions = np.asarray(positions, np.int64)
    before = np.diff(positions, prepend=-1) - 1  # zeros between a position and the previous one
    if (before < 0).any():
        raise ValueError("positions must be nonnegative and strictly ascending")
    fillers = before >> bits
    entry = np.cumsum(fillers + 1) - 1
    last = int(positions[-1]) if len(positions) else -1
    trailing = 0 if size is None else (size - 1 - last) >> bits
    gaps = np.full((int(entry[-1]) + 1 if len(entry) else 0) + trailing, (1 << bits) - 1, np.uint16)
    gaps[entry] = before & ((1 << bits) - 1)
    return gaps, entry


def decode_positions(gaps: np.ndarray) -> np.ndarray:
    """Return the position (E,) int64 of every entry, fillers included."""
    return np.cumsum(np.asarray(gaps).astype(np.int64) + 1) - 1


def count_fillers(positions: np.ndarray, bits: int) -> int:
    """Count the fillers between ascending positions: the sum of floor((gap - 1) / 2^b)."""
    before: np.ndarray = np.diff(np.asarray(positions, np.int64), prepend=-1) - 1
    return int((before >> bits).sum())


def gap_histogram(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distinct numbers of zeros before a position, their frequencies, and the zeros after the last position."""
    before = np.diff(np.asarray(positions, np.int64), prepend=-1) - 1
    last = int(positions[-1]) if len(positions) else -1
    if len(before) and int(before.max()) < 1 << 20:
        counts = np.bincount(before)
        zeros = np.flatnonzero(counts)
        return zeros, counts[zeros], size - 1 - last
    zeros, counts = np.unique(before, return_counts=True)
    return zeros, counts, size - 1 - last


def stored_histogram(zeros: np.ndarray, counts: np.ndarray, trailing: int, bits: int) -> tuple[np.ndarray, int]:
    """Return the frequency of each stored gap 0..2^b-1, fillers included, and the number of fillers."""
    width = 1 << bits
    stored = np.bincount(zeros & (width - 1), weights=counts, minlength=width).astype(np.int64)
    fillers = int(((zeros >> bits) * counts).sum()) + (trailing >> bits)
    stored[width - 1] += fillers
    return stored, fillers
