"""Asymmetric numeral systems through the library `constriction` (extra `ans`): where a symbol deserves less than one bit.

Layout: number of symbols (varint), a 16-bit frequency of each, 32-bit words of payload (varint and words), CRC-32 of the
decoded symbols (as bytes, or 16-bit), since the probabilities are computed in floating point on both sides.
"""

from __future__ import annotations

import importlib.util
import zlib

import numpy as np

from deep_compression.cursor import Cursor, Parts, varint

TOTAL = 1 << 16  # of the stored frequencies


def available() -> bool:
    return importlib.util.find_spec("constriction") is not None


def _library():
    try:
        import constriction
    except ImportError:
        raise ValueError("the entropy coder 'ans' needs the library constriction: install the extra 'ans'") from None
    return constriction


def encode(values: np.ndarray, category: str) -> tuple[Parts, int]:
    library = _library()
    counts = np.bincount(values)
    if len(counts) == 1:
        counts = np.append(counts, 0)
    frequencies = _frequencies(counts)
    coder = library.stream.stack.AnsCoder()
    coder.encode_reverse(np.asarray(values, np.int32), _model(library, frequencies))
    words = np.asarray(coder.get_compressed(), np.uint32)
    table = varint(len(frequencies)) + frequencies.astype("<u2").tobytes()
    check = zlib.crc32(np.asarray(values, "<u2").tobytes()).to_bytes(4, "little")
    payload = words.astype("<u4").tobytes()
    parts = [("code tables", table), ("block fields", varint(len(words))), (category, payload), ("checksums", check)]
    return parts, 32 * len(words)


def decode(cursor: Cursor, count: int, category: str, skip: bool) -> tuple[np.ndarray | None, int]:
    number = cursor.varint("code tables")
    if not 2 <= number <= TOTAL // 2:
        raise ValueError(f"a table of {number} frequencies")
    frequencies = np.frombuffer(cursor.take(2 * number, "code tables"), "<u2").astype(np.int64)
    words = cursor.varint("block fields")
    payload = cursor.take(4 * words, category)
    check = int.from_bytes(cursor.take(4, "checksums"), "little")
    if frequencies.min() < 1 or frequencies.sum() != TOTAL:
        raise ValueError("the table of frequencies is damaged")
    if count * -np.log2(frequencies.max() / TOTAL) > 32 * words + 64:
        raise ValueError(f"{count} symbols cannot come from {words} words")
    if skip:
        return None, 32 * words
    library = _library()
    coder = library.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    values = np.asarray(coder.decode(_model(library, frequencies), count)).astype(np.uint16)
    if zlib.crc32(values.astype("<u2").tobytes()) != check:
        raise ValueError("a stream does not decode to what was encoded")
    return values, 32 * words


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Shares of TOTAL, at least 1 each, that sum to TOTAL."""
    if len(counts) > TOTAL // 2:
        raise ValueError(f"{len(counts)} symbols are too many for the entropy coder 'ans'")
    shares = np.maximum(1, np.floor(counts / counts.sum() * (TOTAL - len(counts))).astype(np.int64))
    shares[np.argmax(shares)] += TOTAL - shares.sum()
    return shares


def _model(library, frequencies: np.ndarray):
    return library.stream.model.Categorical(np.asarray(frequencies, np.float32) / np.float32(TOTAL), perfect=False)
