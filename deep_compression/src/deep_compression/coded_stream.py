"""Encoding and decoding of a sequence of small integers as bytes: fixed width, Huffman or ANS.

Layout: coder (1 byte), count (varint), then for `fixed` the width (1 byte) and the payload; for `huffman` the table of code
lengths, the number of payload bits (varint), the chunk offsets of long streams, and the payload; for `ans` see ans.py.
"""

from __future__ import annotations

import zlib

import numpy as np

from deep_compression import ans
from deep_compression.bits import pack_fixed, unpack_fixed
from deep_compression.choices import CODERS
from deep_compression.cursor import Cursor, Parts, varint
from deep_compression.huffman import CHUNK, MAX_ALPHABET, UNCHUNKED, decode_ranks, huffman_encode

LENGTH_BITS = 5  # bits of a code length, which is at most 20


def encode_stream(values: np.ndarray, alphabet: int, coder: str, category: str) -> tuple[Parts, int]:
    """Encode values (N,) in 0..alphabet-1; return the parts and the payload's bits.

    The payload's category is `category`. The coder `auto` selects the smallest result of the available coders. Raises
    ValueError for an unknown coder.
    """
    if coder == "auto":
        names = [name for name in CODERS if name != "ans" or ans.available()]
        tried = [encode_stream(values, alphabet, name, category) for name in names]
        return min(tried, key=lambda coded: sum(len(data) for _, data in coded[0]))
    if coder not in CODERS:
        raise ValueError(f"unknown entropy coder {coder!r}; known: auto, {', '.join(CODERS)}")
    head = [("block fields", bytes([CODERS.index(coder)]) + varint(len(values)))]
    if len(values) == 0:
        return head, 0
    if coder == "fixed":
        width = max(1, int(alphabet - 1).bit_length())
        return [*head, ("block fields", bytes([width])), (category, pack_fixed(values, width))], width * len(values)
    if coder == "ans":
        parts, bits = ans.encode(values, category)
        return [*head, *parts], bits
    return _huffman(head, values, category)


def _huffman(head: Parts, values, category) -> tuple[Parts, int]:
    stream = huffman_encode(values)
    lengths = np.zeros(int(stream.symbols[-1]) + 1, np.uint8)
    lengths[stream.symbols] = stream.lengths
    parts = [*head, ("code tables", pack_table(lengths)), ("block fields", varint(stream.payload_bits))]
    if len(stream.starts):
        parts.append(("chunk offsets", _pack_starts(stream.starts, stream.payload_bits)))
    return [*parts, (category, stream.payload)], stream.payload_bits


def decode_stream(
    cursor: Cursor, alphabet: int, limit: int, category: str, skip: bool = False
) -> tuple[np.ndarray | None, int, int]:
    """Decode a stream; return the values (N,), N and the payload's bits. With `skip`, the values are None.

    N is at most `limit` and at most what the payload can hold; values lie in 0..alphabet-1. Raises ValueError for damaged
    data.
    """
    coder, count = cursor.byte("block fields"), cursor.varint("block fields")
    if coder >= len(CODERS):
        raise ValueError(f"the file is damaged: unknown entropy coder {coder}")
    if count > limit:
        raise ValueError(f"the file is damaged: {count} entries where at most {limit} fit")
    if count == 0:
        return np.zeros(0, np.uint16), 0, 0
    if CODERS[coder] == "fixed":
        width = cursor.byte("block fields")
        payload = cursor.take((count * width + 7) // 8, category)
        values, bits = None if skip else unpack_fixed(payload, width, count), count * width
    elif CODERS[coder] == "ans":
        values, bits = ans.decode(cursor, count, category, skip)
    else:
        lengths = unpack_table(cursor)
        bits = cursor.varint("block fields")
        if count > bits or bits > 8 * (len(cursor.data) - cursor.at):
            left = len(cursor.data) - cursor.at
            raise ValueError(f"the file is damaged: {bits} bits in {left} bytes cannot hold {count} entries")
        starts = _unpack_starts(cursor, count, bits) if count > UNCHUNKED else ()
        payload = cursor.take((bits + 7) // 8, category)
        values = None if skip else decode_ranks(lengths, count, payload, bits, starts)
    if values is not None and int(values.max()) >= alphabet:
        raise ValueError("the file is damaged: an entry is outside its alphabet")
    return values, count, bits


def pack_table(lengths: np.ndarray) -> bytes:
    """Encode code lengths: number of entries (varint), bytes that follow (varint; 0: five bits each), packed or deflated lengths."""
    packed = pack_fixed(lengths, LENGTH_BITS)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = squeezer.compress(lengths.tobytes()) + squeezer.flush()
    if len(deflated) < len(packed):
        return varint(len(lengths)) + varint(len(deflated)) + deflated
    return varint(len(lengths)) + varint(0) + packed


def unpack_table(cursor: Cursor) -> np.ndarray:
    """Decode code lengths, one per symbol. Raises ValueError."""
    number = cursor.varint("code tables")
    if not 0 < number <= MAX_ALPHABET:
        raise ValueError(f"the file is damaged: a code table of {number} entries")
    size = cursor.varint("code tables")
    if size == 0:
        return unpack_fixed(cursor.take((number * LENGTH_BITS + 7) // 8, "code tables"), LENGTH_BITS, number)
    return np.frombuffer(inflate(cursor.take(size, "code tables"), number, raw=True), np.uint8)


def inflate(data, size: int, raw: bool = False) -> bytes:
    """Inflate to exactly `size` bytes, never allocating more. Raises ValueError."""
    stream = zlib.decompressobj(-15 if raw else 15)
    try:
        out = stream.decompress(data, size + 1)
    except zlib.error as problem:
        raise ValueError(f"the file is damaged: a part cannot be inflated ({problem})") from None
    if len(out) != size or not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise ValueError("the file is damaged: a deflated part does not have its declared size")
    return out


def _pack_starts(starts: np.ndarray, bits: int) -> bytes:
    """Encode chunk sizes (bits): smallest (varint), width (1 byte), sizes of all chunks but the last minus the smallest."""
    sizes = np.diff(starts, prepend=0)
    low = int(sizes.min())
    width = max(1, int(sizes.max() - low).bit_length())
    return varint(low) + bytes([width]) + pack_fixed(sizes - low, width)


def _unpack_starts(cursor: Cursor, count: int, bits: int) -> np.ndarray:
    low, width = cursor.varint("chunk offsets"), cursor.byte("chunk offsets")
    chunks = -(-count // CHUNK) - 1
    sizes = unpack_fixed(cursor.take((chunks * width + 7) // 8, "chunk offsets"), width, chunks)
    if low > bits:
        raise ValueError("the file is damaged: invalid chunk offsets")
    return np.cumsum(sizes.astype(np.int64) + low)
