"""Asymmetric numeral systems (ANS) with the library `constriction`, for symbols with less than one bit of information.

Layout: number of symbols (varint), a 16-bit frequency of each, the payload in 32-bit words (number as a varint, words), and
a CRC-32 of the decoded symbols (16 bits each), because encoder and decoder compute probabilities in floating point.
"""

from __future__ import annotations

import importlib.util
import zlib

import numpy as np

from deep_compression.cursor import Cursor, Parts, varint

TOTAL = 1 << 16  # sum of the stored frequencies


def available() -> bool:
    """Return whether `constriction` is installed."""
    return importlib.util.find_spec("constriction") is not None


def _library():
    try:
        import constriction
    except ImportError:
        raise ValueError("entropy coder 'ans': the library constriction is missing; pip install constriction") from None
    return constriction


def encode(values: np.ndarray, category: str) -> tuple[Parts, int]:
    """Encode values (N,); return the parts and the payload's bits."""
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
    """Decode `count` values; return them (None with `skip`) and the payload's bits. Raises ValueError."""
    number = cursor.varint("code tables")
    if not 2 <= number <= TOTAL // 2:
        raise ValueError(f"the file is damaged: a table of {number} frequencies")
    frequencies = np.frombuffer(cursor.take(2 * number, "code tables"), "<u2").astype(np.int64)
    words = cursor.varint("block fields")
    payload = cursor.take(4 * words, category)
    check = int.from_bytes(cursor.take(4, "checksums"), "little")
    if frequencies.min() < 1 or frequencies.sum() != TOTAL:
        raise ValueError("the file is damaged: a table of frequencies is invalid")
    if count * -np.log2(frequencies.max() / TOTAL) > 32 * words + 64:
        raise ValueError(f"the file is damaged: {words} words cannot hold {count} symbols")
    if skip:
        return None, 32 * words
    library = _library()
    coder = library.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    values = np.asarray(coder.decode(_model(library, frequencies), count)).astype(np.uint16)
    if zlib.crc32(values.astype("<u2").tobytes()) != check:
        raise ValueError("a stream does not decode to the values that were encoded: checksum mismatch")
    return values, 32 * words


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Scale counts to frequencies of at least 1 that sum to TOTAL."""
    if len(counts) > TOTAL // 2:
        raise ValueError(f"entropy coder 'ans': {len(counts)} different symbols; at most {TOTAL // 2} are allowed")
    frequencies = np.maximum(1, np.floor(counts / counts.sum() * (TOTAL - len(counts))).astype(np.int64))
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies


def _model(library, frequencies: np.ndarray):
    return library.stream.model.Categorical(np.asarray(frequencies, np.float32) / np.float32(TOTAL), perfect=False)
