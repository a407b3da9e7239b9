"""Huffman coding of weight indices and position gaps (Deep Compression, arXiv 1510.00149, section 4).

The codes are canonical: of the codes of one length the smaller symbol has the smaller code, so the lengths alone are the
table. Lengths are optimal, or, where a code would be longer than the decoder's table, optimal under that limit
(package-merge). Long streams note where every `chunk`-th symbol starts; the decoder walks all chunks in step, one table
look-up per symbol and chunk.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from deep_compression.bits import pack_codes, windows

TABLE_BITS = 16  # the usual limit of a code's length
MAX_TABLE_BITS = 20  # used where 16 bits would cost more than LIMIT_LOSS
LIMIT_LOSS = 2e-4
MAX_ALPHABET = 1 << 16
CHUNK = 1024  # symbols per chunk
UNCHUNKED = 1 << 15  # streams up to this long are one chunk, decoded by a plain loop
LANES = 2048  # chunks decoded in step


@dataclass(frozen=True)
class HuffmanStream:
    """A coded sequence: all that is needed to decode it.

    symbols (A,) ascending, the alphabet; lengths (A,) uint8, the code length of each; count, the number of symbols coded;
    payload, of payload_bits bits; starts (chunks-1,) int64, the bit at which each chunk after the first begins.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    count: int
    payload: bytes
    payload_bits: int
    starts: np.ndarray


def huffman_encode(symbols) -> HuffmanStream:
    """Code a sequence of integers (at most 65,536 different ones), of any shape, flattened.

    The payload is as short as any Huffman code can make it (a stream of one symbol takes one bit each).
    Raises ValueError for anything but integers.
    """
    flat = np.asarray(symbols.detach().cpu().numpy() if hasattr(symbols, "detach") else symbols).ravel()
    if flat.size == 0:
        dtype = flat.dtype if flat.dtype.kind in "iu" else np.int64
        return HuffmanStream(np.zeros(0, dtype), np.zeros(0, np.uint8), 0, b"", 0, np.zeros(0, np.int64))
    if flat.dtype.kind not in "biu":
        raise ValueError(f"symbols must be integers, not {flat.dtype}")
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
    """The coded sequence, in the alphabet's dtype. Raises ValueError if the stream is damaged."""
    ranks = decode_ranks(stream.lengths, stream.count, stream.payload, stream.payload_bits, stream.starts)
    return np.asarray(stream.symbols).take(ranks)


def _ranks(flat):
    """The distinct values, the rank of each value among them, and how often each occurs."""
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
        raise ValueError(f"{len(alphabet)} different symbols; at most {MAX_ALPHABET} can be coded")
    return alphabet, ranks, counts


# ------------------------------------------------------------------------------------------------------------ code lengths


def choose_lengths(frequencies) -> np.ndarray:
    """Optimal lengths if they fit TABLE_BITS, else the smallest limit that costs at most LIMIT_LOSS of the payload."""
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
    """Length in bits of each symbol's code, 0 where the frequency is 0; ties are settled by the symbols' order.

    With a limit, the best lengths that do not exceed it (package-merge, Larmore and Hirschberg 1990).
    """
    weights = [int(f) for f in frequencies]
    if any(w < 0 for w in weights):
        raise ValueError("frequencies cannot be negative")
    order = sorted((i for i, w in enumerate(weights) if w), key=lambda i: (weights[i], i))
    lengths = np.zeros(len(weights), np.uint8 if limit or len(weights) <= 255 else np.int64)
    if len(order) == 1:
        lengths[order[0]] = 1
    elif order:
        ascending = [weights[i] for i in order]
        lengths[order] = _tree_depths(ascending) if limit is None else _package_merge(ascending, limit)
    return lengths


def optimal_bits(frequencies) -> int:
    """Bits of a payload under the best prefix code: the sum of all merged weights, of a heap; one symbol costs a bit each time.

    Shares nothing with :func:`code_lengths`, which tests and benchmarks hold against it.
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
    """Depths of the leaves of a Huffman tree, for ascending weights, with two queues: of two equal ones the leaf goes first."""
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
    """Optimal depths of at most `limit` for ascending weights."""
    n = len(weights)
    if n > 1 << limit:
        raise ValueError(f"{n} symbols do not fit codes of at most {limit} bits")
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
    """The code of each symbol (uint64), from the lengths alone. Raises ValueError unless they make a complete prefix code.

    A single symbol of length 1 is the one incomplete code allowed. Symbols of length 0 have no code.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(np.where(lengths > 0, lengths, 1 << 30), kind="stable")[: np.count_nonzero(lengths)]
    codes = np.zeros(len(lengths), np.uint64)
    if len(order) == 0:
        return codes
    used = lengths[order]
    longest = int(used[-1])
    if longest > 32:
        raise ValueError(f"a code of {longest} bits is too long")
    upto = np.cumsum(np.int64(1) << (longest - used))
    if upto[-1] != 1 << longest and not (len(used) == 1 and longest == 1):
        raise ValueError("the code lengths do not make a prefix code")
    first = np.concatenate(([0], upto[:-1]))
    codes[order] = (first >> (longest - used)).astype(np.uint64)
    return codes


# ------------------------------------------------------------------------------------------------------------------ decode


def decode_ranks(lengths, count: int, payload, payload_bits: int, starts) -> np.ndarray:
    """Ranks (count,) into the table of lengths. Raises ValueError if table, starts and payload do not fit each other."""
    lengths = np.asarray(lengths, np.int64)
    if count == 0:
        if payload_bits or len(payload):
            raise ValueError("an empty stream with a payload")
        return np.zeros(0, np.uint16)
    if len(payload) != (payload_bits + 7) // 8 or count > payload_bits:
        raise ValueError(f"{count} symbols cannot come from {payload_bits} bits in {len(payload)} bytes")
    if not len(lengths) or len(lengths) > MAX_ALPHABET or lengths.min() < 0 or lengths.max() > MAX_TABLE_BITS:
        raise ValueError("the table of code lengths is damaged")
    chunks = -(-count // CHUNK) if count > UNCHUNKED else 1
    limits = np.concatenate(([0], np.asarray(starts, np.int64), [payload_bits]))
    if len(limits) != chunks + 1 or (np.diff(limits) <= 0).any():
        raise ValueError("the chunk offsets are damaged")
    rank, size = _table(lengths)
    if chunks == 1:
        return _decode_loop(rank, size, count, payload, payload_bits)
    return _decode_chunks(rank, size, count, payload, limits)


def _table(lengths):
    """For each possible window of the longest code's bits: the rank of the symbol it begins with, and its length."""
    canonical_codes(lengths)  # refuses lengths that are no prefix code
    order = np.argsort(np.where(lengths > 0, lengths, 1 << 30), kind="stable")[: np.count_nonzero(lengths)]
    used = lengths[order]
    longest = int(used[-1]) if len(used) else 0
    if not longest:
        raise ValueError("the table of code lengths is damaged")
    repeat = np.int64(1) << (longest - used)
    rank, size = np.zeros(1 << longest, np.int64), np.zeros(1 << longest, np.int64)
    rank[: repeat.sum()] = np.repeat(order, repeat)
    size[: repeat.sum()] = np.repeat(used, repeat)
    return rank, size


def _decode_loop(rank, size, count, payload, payload_bits):
    """One symbol after the other: for short streams."""
    longest = len(rank).bit_length() - 1
    view = windows(payload).tolist()
    rank, size = rank.tolist(), size.tolist()
    shift, mask, at = 32 - longest, len(rank) - 1, 0
    out = []
    for _ in range(count):
        if at >= payload_bits:
            raise ValueError("the payload ends before the last symbol")
        entry = view[at >> 3] >> (shift - (at & 7)) & mask
        out.append(rank[entry])
        at += size[entry]
    if at != payload_bits:
        raise ValueError("the payload does not end with the last symbol")
    return np.array(out, np.uint16)


def _decode_chunks(rank, size, count, payload, limits):
    """All chunks in step, LANES at a time; each must end where the next begins."""
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
                raise ValueError("a chunk of the payload does not end where it should")
            _walk(view, table, longest, at[:-1], rows[short:, :-1])
        if not np.array_equal(at, stop):
            raise ValueError("a chunk of the payload does not end where it should")
        out[first * CHUNK : first * CHUNK + symbols] = rows.T.reshape(-1)[:symbols]
    return out


def _walk(view, table, longest, at, rows):
    """Decode one symbol per lane for each row; `at` (lanes,) int64 moves on in place and never leaves the view."""
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
