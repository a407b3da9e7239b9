"""Huffman coding of weight indices and position gaps (Deep Compression, arXiv 1510.00149, section 4).

The codes are canonical: among codes of one length, the smaller symbol has the smaller code, so the lengths alone define
the table. Lengths are optimal, or, if a code would exceed the decoder's table, optimal under that limit (package-merge).
Long streams store where every CHUNK-th symbol starts; the decoder advances all chunks in parallel, with one table look-up
per symbol and chunk.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from deep_compression.bits import pack_codes, windows

TABLE_BITS = 16  # default limit of a code's length
MAX_TABLE_BITS = 20  # largest limit, for payloads that 16 bits would lengthen by more than LIMIT_LOSS
LIMIT_LOSS = 2e-4  # fraction of the payload
MAX_ALPHABET = 1 << 16
CHUNK = 1024  # symbols per chunk
UNCHUNKED = 1 << 15  # symbols of the longest stream with one chunk, which a plain loop decodes
LANES = 2048  # chunks decoded in parallel


@dataclass(frozen=True)
class HuffmanStream:
    """A Huffman-coded sequence with everything that is needed to decode it.

    Attributes:
        symbols: Alphabet (A,), ascending.
        lengths: Code length of each symbol (A,), uint8, in bits.
        count: Number of coded symbols.
        payload: Codes, zero-padded to bytes.
        payload_bits: Bits of the payload without padding.
        starts: Bit at which each chunk after the first begins, (chunks - 1,), int64.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    count: int
    payload: bytes
    payload_bits: int
    starts: np.ndarray


def huffman_encode(symbols: Any) -> HuffmanStream:
    """Encode integers with a canonical Huffman code (section 4).

    The payload has the length of an optimal Huffman code; with a single distinct symbol, it is one bit per symbol.

    Args:
        symbols: Integers of any shape, which are flattened (NumPy, torch or a sequence); at most 65,536 distinct values.

    Raises:
        ValueError: If the symbols are not integers or have too many distinct values.
    """
    flat = np.asarray(symbols.detach().cpu().numpy() if hasattr(symbols, "detach") else symbols).ravel()
    if flat.size == 0:
        dtype = flat.dtype if flat.dtype.kind in "iu" else np.int64
        return HuffmanStream(np.zeros(0, dtype), np.zeros(0, np.uint8), 0, b"", 0, np.zeros(0, np.int64))
    if flat.dtype.kind not in "biu":
        raise ValueError(f"symbols: the type is {flat.dtype}; only integers can be encoded")
    flat = flat.view(np.uint8) if flat.dtype == bool else flat
    alphabet, ranks, frequencies = _ranks(flat)
    lengths = choose_lengths(frequencies)
    payload, bits = pack_codes(ranks, canonical_codes(lengths), lengths)
    starts = np.zeros(0, np.int64)
    if len(flat) > UNCHUNKED:
        per_chunk = np.add.reduceat(lengths.take(ranks), np.arange(0, len(ranks), CHUNK), dtype=np.int64)
        starts = np.cumsum(per_chunk)[:-1]
    return HuffmanStream(alphabet, lengths, len(flat), payload, bits, starts)


def huffman_decode(stream: HuffmanStream) -> np.ndarray:
    """Decode a stream to an array (count,) in the alphabet's dtype.

    Raises:
        ValueError: If the stream is damaged.
    """
    ranks = decode_ranks(stream.lengths, stream.count, stream.payload, stream.payload_bits, stream.starts)
    return np.asarray(stream.symbols).take(ranks)


def _ranks(flat):
    """Return the distinct values, the rank of each element among them, and their frequencies."""
    low, high = int(flat.min()), int(flat.max())
    if high - low < 4 * MAX_ALPHABET:
        shifted = flat.astype(np.int64) - low if flat.dtype.kind == "i" else flat - flat.dtype.type(low)
        counts = np.bincount(shifted, minlength=high - low + 1)
        used = np.flatnonzero(counts)
        table = np.zeros(len(counts), np.uint16 if len(used) <= MAX_ALPHABET else np.int64)
        table[used] = np.arange(len(used))
        alphabet, ranks, counts = (used + low).astype(flat.dtype), table.take(shifted), counts[used]
    else:
        alphabet, ranks, counts = np.unique(flat, return_inverse=True, return_counts=True)
    if len(alphabet) > MAX_ALPHABET:
        raise ValueError(f"symbols: {len(alphabet)} different symbols; at most {MAX_ALPHABET} can be encoded")
    return alphabet, ranks, counts


# ------------------------------------------------------------------------------------------------------------ code lengths


def choose_lengths(frequencies) -> np.ndarray:
    """Return optimal lengths if they fit TABLE_BITS, else those under the smallest limit that costs at most LIMIT_LOSS."""
    frequencies = np.asarray(frequencies)
    best = code_lengths(frequencies)
    if best.max(initial=0) <= TABLE_BITS:
        return best
    bits = int(best @ frequencies.astype(np.int64))
    for limit in range(TABLE_BITS, MAX_TABLE_BITS + 1):
        limited = code_lengths(frequencies, limit)
        if int(limited @ frequencies.astype(np.int64)) <= bits * (1 + LIMIT_LOSS):
            break
    return limited


def code_lengths(frequencies, limit: int | None = None) -> np.ndarray:
    """Return the optimal code length of each symbol in bits, 0 where the frequency is 0; ties follow the symbols' order.

    With a limit, the lengths are optimal among those that do not exceed it (package-merge, Larmore and Hirschberg 1990).
    """
    weights = [int(f) for f in frequencies]
    if any(w < 0 for w in weights):
        raise ValueError(f"frequencies must be nonnegative, not {min(weights)}")
    order = sorted((i for i, w in enumerate(weights) if w), key=lambda i: (weights[i], i))
    lengths = np.zeros(len(weights), np.uint8 if limit or len(weights) <= 255 else np.int64)
    if len(order) == 1:
        lengths[order[0]] = 1
    elif order:
        ascending = [weights[i] for i in order]
        lengths[order] = _tree_depths(ascending) if limit is None else _package_merge(ascending, limit)
    return lengths


def optimal_bits(frequencies) -> int:
    """Return the payload's bits under an optimal prefix code: the sum of all merged weights of a heap.

    A single distinct symbol costs one bit per occurrence. The implementation is independent of :func:`code_lengths`, so
    that tests and benchmarks can compare them.
    """
    heap = [int(f) for f in frequencies if f]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def _tree_depths(weights: list[int]) -> list[int]:
    """Return the leaves' depths in a Huffman tree for ascending weights, with two queues; leaves are preferred in ties."""
    n = len(weights)
    nodes, parent = list(weights), [0] * (2 * n - 1)
    leaf, inner = 0, n
    for new in range(n, 2 * n - 1):
        total = 0
        for _ in range(2):
            if leaf < n and (inner >= new or nodes[leaf] <= nodes[inner]):
                child, leaf = leaf, leaf + 1
            else:
                child, inner = inner, inner + 1
            parent[child] = new
            total += nodes[child]
        nodes.append(total)
    depth = [0] * (2 * n - 1)
    for node in range(2 * n - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[:n]


def _package_merge(weights: list[int], limit: int) -> list[int]:
    """Return optimal depths of at most `limit` for ascending weights."""
    n = len(weights)
    if n > 1 << limit:
        raise ValueError(f"{n} symbols: codes of at most {limit} bits can encode {1 << limit}")
    rows: list[list[bool]] = []
    packages: list[tuple[int, bool]] = []
    leaves = [(w, True) for w in weights]
    for _ in range(limit):
        items = sorted(leaves + packages, key=lambda item: (item[0], not item[1]))
        rows.append([is_leaf for _, is_leaf in items])
        packages = [(items[i][0] + items[i + 1][0], False) for i in range(0, len(items) - 1, 2)]
    depth, take = [0] * n, 2 * n - 2
    for row in reversed(rows):
        leaves_taken = sum(row[:take])
        for i in range(leaves_taken):
            depth[i] += 1
        take = 2 * (take - leaves_taken)
    return depth


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Return each symbol's code (uint64) from the lengths alone. Raises ValueError unless they form a complete prefix code.

    The only incomplete code allowed is a single symbol of length 1. Symbols of length 0 have no code.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(np.where(lengths > 0, lengths, 1 << 30), kind="stable")[: np.count_nonzero(lengths)]
    codes = np.zeros(len(lengths), np.uint64)
    if len(order) == 0:
        return codes
    used = lengths[order]
    longest = int(used[-1])
    if longest > 32:
        raise ValueError(f"the stream is damaged: a code of {longest} bits")
    upto = np.cumsum(np.int64(1) << (longest - used))
    if upto[-1] != 1 << longest and not (len(used) == 1 and longest == 1):
        raise ValueError("the stream is damaged: code lengths do not form a prefix code")
    first = np.concatenate(([0], upto[:-1]))
    codes[order] = (first >> (longest - used)).astype(np.uint64)
    return codes


# ------------------------------------------------------------------------------------------------------------------ decode


def decode_ranks(lengths, count: int, payload, payload_bits: int, starts) -> np.ndarray:
    """Decode ranks (count,) into the table of lengths. Raises ValueError if table, starts and payload are inconsistent."""
    lengths = np.asarray(lengths, np.int64)
    if count == 0:
        if payload_bits or len(payload):
            raise ValueError("the stream is damaged: an empty stream has a payload")
        return np.zeros(0, np.uint16)
    if len(payload) != (payload_bits + 7) // 8 or count > payload_bits:
        bits = f"{payload_bits} bits in {len(payload)} bytes"
        raise ValueError(f"the stream is damaged: {bits} cannot hold {count} symbols")
    if not len(lengths) or len(lengths) > MAX_ALPHABET or lengths.min() < 0 or lengths.max() > MAX_TABLE_BITS:
        raise ValueError("the stream is damaged: invalid table of code lengths")
    chunks = -(-count // CHUNK) if count > UNCHUNKED else 1
    limits = np.concatenate(([0], np.asarray(starts, np.int64), [payload_bits]))
    if len(limits) != chunks + 1 or (np.diff(limits) <= 0).any():
        raise ValueError("the stream is damaged: invalid chunk offsets")
    rank, size = _table(lengths)
    if chunks == 1:
        return _decode_loop(rank, size, count, payload, payload_bits)
    return _decode_chunks(rank, size, count, payload, limits)


def _table(lengths):
    """Return, for each window of as many bits as the longest code, the rank and code length of its first symbol."""
    canonical_codes(lengths)  # validates the lengths
    order = np.argsort(np.where(lengths > 0, lengths, 1 << 30), kind="stable")[: np.count_nonzero(lengths)]
    used = lengths[order]
    longest = int(used[-1]) if len(used) else 0
    if not longest:
        raise ValueError("the stream is damaged: empty table of code lengths")
    repeat = np.int64(1) << (longest - used)
    rank, size = np.zeros(1 << longest, np.int64), np.zeros(1 << longest, np.int64)
    rank[: repeat.sum()] = np.repeat(order, repeat)
    size[: repeat.sum()] = np.repeat(used, repeat)
    return rank, size


def _decode_loop(rank, size, count, payload, payload_bits):
    """Decode one symbol at a time, for short streams."""
    longest = len(rank).bit_length() - 1
    view = windows(payload).tolist()
    rank, size = rank.tolist(), size.tolist()
    shift, mask, at = 32 - longest, len(rank) - 1, 0
    out = []
    for _ in range(count):
        if at >= payload_bits:
            raise ValueError("the stream is damaged: a payload ends before its last symbol")
        entry = view[at >> 3] >> (shift - (at & 7)) & mask
        out.append(rank[entry])
        at += size[entry]
    if at != payload_bits:
        raise ValueError("the stream is damaged: a payload does not end with its last symbol")
    return np.array(out, np.uint16)


def _decode_chunks(rank, size, count, payload, limits):
    """Decode LANES chunks at a time in parallel; each must end where the next begins."""
    longest = len(rank).bit_length() - 1
    table = (rank << 5 | size).astype(np.uint32)
    out = np.empty(count, np.uint16)
    for first in range(0, len(limits) - 1, LANES):
        lanes = min(LANES, len(limits) - 1 - first)
        begin, end = int(limits[first]) >> 3, (int(limits[first + lanes]) + 7) >> 3
        view = windows(payload[begin:end])
        at = limits[first : first + lanes] - 8 * begin
        stop = limits[first + 1 : first + lanes + 1] - 8 * begin
        symbols = min(count - first * CHUNK, lanes * CHUNK)
        short = symbols - (lanes - 1) * CHUNK  # length of the last of these chunks
        rows = np.empty((CHUNK, lanes), np.uint16)
        _walk(view, table, longest, at, rows[:short])
        if short < CHUNK:
            if at[-1] != stop[-1]:
                raise ValueError("the stream is damaged: a chunk's size is wrong")
            _walk(view, table, longest, at[:-1], rows[short:, :-1])
        if not np.array_equal(at, stop):
            raise ValueError("the stream is damaged: a chunk's size is wrong")
        out[first * CHUNK : first * CHUNK + symbols] = rows.T.reshape(-1)[:symbols]
    return out


def _walk(view, table, longest, at, rows):
    """Decode one symbol of every lane for each output row.

    at: Bit position of each lane, shape (lanes,), int64; advanced in place. Reads past the end of the buffer are clamped to its end."""
    lanes = len(at)
    byte, index = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    window, offset, entry = (np.empty(lanes, np.uint32) for _ in range(3))
    shift = np.uint32(32 - longest)
    for row in rows:
        np.right_shift(at, 3, out=byte)
        np.bitwise_and(at, 7, out=offset, casting="unsafe")
        view.take(byte, out=window, mode="clip")
        np.left_shift(window, offset, out=window)
        np.right_shift(window, shift, out=index, casting="unsafe")
        table.take(index, out=entry, mode="clip")
        np.right_shift(entry, 5, out=row, casting="unsafe")
        np.bitwise_and(entry, 31, out=entry)
        np.add(at, entry, out=at, casting="unsafe")
