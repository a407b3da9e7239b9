"""Encoding of one weight tensor as a block: codebook, weight indices and relative positions (Deep Compression, sections 2 to 4).

Layout: form (1 byte), then
  dense    codebook; stream of weight indices, one per element
  sparse   order (1 byte: rows or columns first); index bits (1 byte); codebook, whose code 0 is +0.0 and not stored;
           stream of weight indices; stream of position gaps. Fillers have the code 0.
  pruned   as sparse, but with the values themselves instead of codebook and indices: for weights that are not shared
A codebook is its number of entries (varint), the number of low bytes omitted because they are zero in every entry
(1 byte), and the entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deep_compression.choices import ORDERS
from deep_compression.coded_stream import decode_stream, encode_stream
from deep_compression.cursor import Cursor, Parts, varint
from deep_compression.elements import UNSIGNED, count
from deep_compression.positions import (
    MAX_INDEX_BITS,
    decode_positions,
    encode_positions,
    gap_histogram,
    stored_histogram,
)
from deep_compression.rawbytes import decode_raw, encode_raw

FORMS = ("dense", "sparse", "pruned")
MAX_CODEBOOK = 1 << 14
SAMPLE = 1 << 17  # values whose distinct ones are counted before those of all values
AUTO_BITS = tuple(range(2, 15))
Histogram = tuple[np.ndarray, np.ndarray, int]  # result of positions.gap_histogram
EXACT_CHOICE = 1 << 18  # nonzero weights up to which the three most promising index bits are encoded and compared


@dataclass(frozen=True)
class LayerSettings:
    """Settings of a layer's encoding.

    Attributes:
        index_bits: Bits of a position gap; None selects the smallest result.
        order: Order of positions: "rows", "columns" or "auto".
        coder: Entropy coder, see :func:`coded_stream.encode_stream`.
    """

    index_bits: int | None = None
    order: str = "auto"
    coder: str = "huffman"


@dataclass(frozen=True)
class LayerInfo:
    """Description of a block that needs no decoding of its payloads.

    Attributes:
        form: One of FORMS.
        codebook: Entries of the codebook, the implicit zero included.
        entries: Stored weights, fillers included.
        weight_payload_bits: Bits of the payload of weights.
        index_bits: Bits of a position gap before entropy coding; 0 without positions.
        gap_payload_bits: Bits of the payload of positions.
    """

    form: str
    codebook: int
    entries: int
    weight_payload_bits: int
    index_bits: int
    gap_payload_bits: int


def encode_layer(bits: np.ndarray, shape: tuple[int, ...], settings: LayerSettings) -> Parts | None:
    """Return the smallest block for bit patterns (N,), or None if unencoded storage is smaller.

    With given index bits, shared weights with zeros among them are stored with their positions, as in the paper.
    """
    positions = np.flatnonzero(bits)
    values = bits[positions]
    distinct = _distinct(values)
    candidates = []
    if distinct is not None and len(positions) < len(bits):
        candidates.append(_sparse(positions, values, distinct, bits, shape, settings))
        if settings.index_bits and len(distinct) < len(values):
            return candidates[0]
    if distinct is not None and len(positions) > len(bits) // 8:
        candidates.append(_dense(bits, distinct, len(positions) < len(bits), settings))
    if (distinct is None or 4 * len(distinct) > len(values)) and len(positions) < 0.9 * len(bits):
        candidates.append(_sparse(positions, values, None, bits, shape, settings))
    best = min(candidates, key=size_of, default=None)
    return best if best is not None and size_of(best) < _plain_size(bits) else None


def _plain_size(bits: np.ndarray) -> int:
    """Return the bytes of unencoded storage (deflated if small) minus those of a block's checksum and header entry."""
    margin = 8
    if len(bits) > 1 << 16:
        return bits.nbytes - margin
    return size_of(encode_raw([bits], "")) - margin


def size_of(parts: Parts) -> int:
    """Return the bytes of all parts."""
    return sum(len(data) for _, data in parts)


def decode_layer(
    cursor: Cursor, shape: tuple[int, ...], code: str, skip: bool = False
) -> tuple[np.ndarray | None, LayerInfo]:
    """Decode a block to bit patterns (N,) and its description; only the latter with `skip`. Raises ValueError."""
    form = cursor.byte("block fields")
    size, unsigned = count(shape), UNSIGNED[code]
    if form >= len(FORMS):
        raise ValueError(f"the file is damaged: unknown form {form} of a block")
    if FORMS[form] == "dense":
        book = _read_codebook(cursor, unsigned)
        codes, entries, payload = decode_stream(cursor, len(book), size, "payload of weights", skip)
        cursor.finish()
        if entries != size:
            raise ValueError(f"the file is damaged: {entries} weight indices for {size} elements")
        return None if codes is None else book.take(codes), LayerInfo("dense", len(book), entries, payload, 0, 0)
    return _decode_sparse(cursor, shape, unsigned, FORMS[form], skip)


# ----------------------------------------------------------------------------------------------------------------- encoding


def _distinct(values: np.ndarray) -> np.ndarray | None:
    """Return the distinct values, or None if they are too many for a codebook."""
    if len(values) > 4 * SAMPLE and len(np.unique(values[:SAMPLE])) > MAX_CODEBOOK:
        return None
    distinct = np.unique(values)
    return distinct if len(distinct) <= MAX_CODEBOOK else None


def _dense(bits, distinct, has_zero, settings) -> Parts:
    book = np.concatenate((np.zeros(1, bits.dtype), distinct)) if has_zero else distinct
    codes = _codes(bits, book)
    stream, _ = encode_stream(codes, len(book), settings.coder, "payload of weights")
    return [("block fields", bytes([FORMS.index("dense")])), ("codebooks", _codebook(book)), *stream]


def _sparse(positions, values, distinct, bits, shape, settings) -> Parts:
    """Encode as sparse or pruned, with the order and the index bits that give the smallest block."""
    counts = None if distinct is None else np.bincount(_codes(values, distinct), minlength=len(distinct))
    tried = []
    for order in ("rows",) if len(shape) < 2 else ORDERS if settings.order == "auto" else (settings.order,):
        moved = positions if order == "rows" else _transposed(positions, shape)
        histogram = gap_histogram(np.sort(moved), len(bits))
        for width in _widths(histogram, settings.index_bits):
            tried.append((_estimate(histogram, width, counts, values.itemsize), order, width))
    tried.sort()
    best = []
    for _, order, width in tried[: 3 if len(positions) < EXACT_CHOICE else 1]:
        best.append(_sparse_with(positions, values, distinct, bits, shape, settings.coder, order, width))
    return min(best, key=size_of)


def _sparse_with(positions, values, distinct, bits, shape, coder, order, width) -> Parts:
    if order == "columns":
        moved = _transposed(positions, shape)
        by_place = np.argsort(moved)
        positions, values = moved[by_place], values[by_place]
    gaps, entry = encode_positions(positions, width, len(bits))
    form = "pruned" if distinct is None else "sparse"
    head = [("block fields", bytes([FORMS.index(form), ORDERS.index(order), width]))]
    gap_stream, _ = encode_stream(gaps, 1 << width, coder, "payload of positions")
    if distinct is None:
        spread = np.zeros(len(gaps), bits.dtype)
        spread[entry] = values
        return [*head, *gap_stream, *encode_raw([spread], "payload of weights")]
    codes = np.zeros(len(gaps), np.uint16)
    codes[entry] = _codes(values, distinct) + 1
    weight_stream, _ = encode_stream(codes, len(distinct) + 1, coder, "payload of weights")
    return [*head, ("codebooks", _codebook(distinct)), *weight_stream, *gap_stream]


def _widths(histogram: Histogram, index_bits: int | None) -> tuple[int, ...]:
    """Return the index bits to try: the given ones, or all up to those that need no fillers."""
    if index_bits is not None:
        return (index_bits,)
    zeros, _, trailing = histogram
    longest = max(int(zeros.max(initial=0)), trailing)
    return tuple(width for width in AUTO_BITS if width == AUTO_BITS[0] or longest >> (width - 1))


def _estimate(histogram: Histogram, width: int, counts: np.ndarray | None, item: int) -> float:
    """Estimate the bytes of positions and fillers from entropies, with half a byte per table entry."""
    stored, fillers = stored_histogram(*histogram, width)
    gaps = _entropy_bytes(stored)
    if counts is None:
        return gaps + fillers * item
    return gaps + _entropy_bytes(np.append(counts, fillers))


def _entropy_bytes(counts: np.ndarray) -> float:
    used = counts[counts > 0].astype(np.float64)
    total = used.sum()
    bits = float((used * np.log2(total / used)).sum()) if len(used) else 0.0
    return max(bits, total) / 8 + 0.5 * len(used)


def _transposed(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert row-major positions in the matrix (shape[0], rest) to column-major ones."""
    columns = max(1, count(shape[1:]))
    return positions % columns * shape[0] + positions // columns


def _codes(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Return the index of each value in the codebook."""
    return np.searchsorted(book, values).astype(np.uint16)


def _codebook(book: np.ndarray) -> bytes:
    merged = int(np.bitwise_or.reduce(book)) if len(book) else 0
    left_out = 0
    while left_out < book.itemsize and not merged >> 8 * left_out & 0xFF:
        left_out += 1
    planes = book.astype(book.dtype.newbyteorder("<")).view(np.uint8).reshape(len(book), book.itemsize)
    return varint(len(book)) + bytes([left_out]) + planes[:, left_out:].tobytes()


# ----------------------------------------------------------------------------------------------------------------- decoding


def _read_codebook(cursor: Cursor, unsigned: type) -> np.ndarray:
    number, left_out = cursor.varint("codebooks"), cursor.byte("codebooks")
    item = np.dtype(unsigned).itemsize
    if number > MAX_CODEBOOK + 1 or left_out > item:
        raise ValueError(f"the file is damaged: a codebook of {number} entries, {left_out} bytes omitted from each")
    data = cursor.take(number * (item - left_out), "codebooks")
    planes = np.zeros((number, item), np.uint8)
    planes[:, left_out:] = np.frombuffer(data, np.uint8).reshape(number, item - left_out)
    return planes.reshape(-1).view(np.dtype(unsigned).newbyteorder("<")).astype(unsigned)


def _decode_sparse(cursor, shape, unsigned, form, skip):
    order, width = cursor.byte("block fields"), cursor.byte("block fields")
    if order >= len(ORDERS) or not 1 <= width <= MAX_INDEX_BITS:
        raise ValueError(f"the file is damaged: order {order} or index bits {width} of a block are out of range")
    size, codes, values = count(shape), None, []
    if form == "sparse":
        book = np.concatenate((np.zeros(1, unsigned), _read_codebook(cursor, unsigned)))
        codes, entries, weight_bits = decode_stream(cursor, len(book), size, "payload of weights", skip)
    gaps, gap_entries, gap_bits = decode_stream(cursor, 1 << width, size, "payload of positions", skip)
    if form == "pruned":
        book, entries = np.zeros(0, unsigned), gap_entries
        weight_bits = 8 * (len(cursor.data) - cursor.at)
        values = decode_raw(cursor, [(entries, unsigned)], "payload of weights", skip)
    cursor.finish()
    if entries != gap_entries or not entries <= size < (entries + 1) << width:
        raise ValueError(f"the file is damaged: {entries} weights and {gap_entries} positions for {size} elements")
    info = LayerInfo(form, len(book), entries, weight_bits, width, gap_bits)
    if gaps is None:
        return None, info
    places = decode_positions(gaps)
    if entries and int(places[-1]) >= size:
        raise ValueError("the file is damaged: a position is outside its tensor")
    if order == ORDERS.index("columns"):
        places = places % shape[0] * (size // shape[0]) + places // shape[0]
    bits = np.zeros(size, unsigned)
    bits[places] = values[0] if codes is None else book.take(codes)
    return bits, info
