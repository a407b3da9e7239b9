"""Container format of compressed networks: self-describing, versioned, with checksums. It is data only and never selects code to run.

    magic             8 bytes, the last one is the version
    header            length and inflated length (4 bytes each), deflated JSON, CRC-32
    blocks            in the header's order, each followed by its CRC-32
    checksum          BLAKE2b, 16 bytes, of everything before it

The header is {"about": {...}, "tensors": [[name, dtype, shape, block bytes], ...], "raw": block bytes}. Tensors with 0 block
bytes are stored together in the raw block, which is the last one. Version 2 also has "levels": [block bytes, [numbers of tensors]], the
tensors of one more block (:mod:`deep_compression.levels`), behind the raw one. Before anything is unpacked, the declared sizes are
compared with the file's size and with a limit on the decoded size.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from deep_compression import levels
from deep_compression.choices import ADAPTIVE
from deep_compression.coded_stream import inflate
from deep_compression.cursor import Cursor, Parts
from deep_compression.elements import MAX_DIMENSIONS, UNSIGNED, count, item_size
from deep_compression.layer import LayerInfo, LayerSettings, decode_layer, encode_layer, size_of
from deep_compression.rawbytes import decode_raw, encode_raw

MAGIC = b"\x8fDCOMPR"
VERSIONS = (1, 2)  # 2 is written only for files with levels
DIGEST = 16
HEADER_LIMIT = 1 << 24  # largest size of the inflated JSON, in bytes
HEADER_EXPANSION = 64  # largest ratio of inflated to deflated size
FREE_SIZE = 1 << 26  # bytes that any file may decode to
EXPANSION = 1024  # additional bytes that a file may decode to, per byte of the file
CODED_FROM = 64  # smallest number of elements of a tensor with a block of its own
NAME_LIMIT = 1 << 16


@dataclass(frozen=True)
class Entry:
    """A tensor in the header. on_grid: whether it is in the block of levels."""

    name: str
    code: str
    shape: tuple[int, ...]
    block: int
    on_grid: bool = False


@dataclass(frozen=True)
class OpenedFile:
    """A file with valid checksums and header; blocks are views of its bytes."""

    about: dict[str, Any]
    entries: list[Entry]
    blocks: list[memoryview]
    raw: memoryview
    levels: memoryview
    used: Counter


def pack(
    tensors: list[tuple[str, str, tuple[int, ...], np.ndarray]],
    about: dict[str, Any],
    settings: Callable[[str], LayerSettings],
) -> bytes:
    """Return the file's bytes for tensors given as (name, dtype code, shape, bit patterns (N,))."""
    blocks: list[Parts] = []
    rows, raw, grids = [], [], dict[int, levels.GridTensor]()
    for number, (name, code, shape, bits) in enumerate(tensors):
        how, grid = settings(name), None
        if how.coder == ADAPTIVE:
            how = replace(how, coder="huffman")
            grid = levels.find_grid(bits.view(np.float32), shape) if code == "f4" and bits.size else None
        if grid is not None:
            grids[number] = grid
        parts = encode_layer(bits, shape, how) if grid is None and bits.size >= CODED_FROM else None
        if parts is not None:
            blocks.append(parts)
        elif grid is None:
            raw.append(bits)
        rows.append([name, code, list(shape), size_of(parts) if parts else 0])
    raw_block = encode_raw(raw, "") if any(bits.size for bits in raw) else []
    content: dict[str, Any] = {"about": about, "tensors": rows, "raw": size_of(raw_block)}
    blocks += [raw_block] if raw_block else []
    if grids:
        levels_block = levels.encode_levels(list(grids.values()))
        content["levels"] = [size_of(levels_block), list(grids)]
        blocks.append(levels_block)
    plain = json.dumps(content, separators=(",", ":")).encode()
    deflated = zlib.compress(plain, 9)
    version = VERSIONS[1] if grids else VERSIONS[0]
    out = [MAGIC + bytes([version]), _u4(len(deflated)), _u4(len(plain)), deflated, _u4(zlib.crc32(deflated))]
    for parts in blocks:
        block = b"".join(data for _, data in parts)
        out += [block, _u4(zlib.crc32(block))]
    body = b"".join(out)
    return body + _digest(body)


def open_bytes(data: bytes, limit: int | None = None) -> OpenedFile:
    """Check a file and split it into blocks; `limit` bounds the decoded size in bytes. Raises ValueError."""
    view, used = memoryview(data), Counter[str]()
    fixed = len(MAGIC) + 1 + 8 + 4 + DIGEST
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise ValueError("this is not a file of a compressed network (*.dcz)")
    if len(view) < fixed:
        raise ValueError(f"the file is truncated: it has {len(view)} bytes")
    _check_version(view[len(MAGIC)])
    if _digest(view[:-DIGEST]) != view[-DIGEST:]:
        raise ValueError("the file is damaged or truncated: checksum mismatch")
    cursor = Cursor(view[len(MAGIC) + 1 : -DIGEST])
    about, entries, raw_size, levels_size = _take_header(cursor)
    allowed = FREE_SIZE + EXPANSION * len(view) if limit is None else limit
    if (needed := sum(count(e.shape) * item_size(e.code) for e in entries)) > allowed:
        raise ValueError(f"the file decodes to {needed} bytes, but {allowed} are allowed; pass a larger limit")
    used.update({"magic": len(MAGIC) + 1})
    blocks = [_checked(cursor, e.block, "blocks") if e.block else memoryview(b"") for e in entries]
    raw = _checked(cursor, raw_size, "blocks") if raw_size else memoryview(b"")
    on_grid = _checked(cursor, levels_size, "blocks") if levels_size else memoryview(b"")
    cursor.finish()
    used.update({"header": cursor.used["header"], "checksums": cursor.used["checksums"] + DIGEST})
    return OpenedFile(about, entries, blocks, raw, on_grid, used)


def read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], list[Entry], int]:
    """Read only (about, tensors, bytes of the blocks of several tensors) of an open file of `size` bytes. Raises ValueError if it is damaged."""
    file.seek(0)
    start = file.read(len(MAGIC) + 1 + 8)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 9:
        raise ValueError("this is not a file of a compressed network (*.dcz), or it is truncated")
    _check_version(start[len(MAGIC)])
    length = int.from_bytes(start[len(MAGIC) + 1 : len(MAGIC) + 5], "little")
    if length > min(size, HEADER_LIMIT):
        raise ValueError(f"the file is damaged: a header of {length} bytes")
    about, entries, *shared = _take_header(Cursor(start[len(MAGIC) + 1 :] + file.read(length + 4)))
    blocks = [number for number in (*(e.block for e in entries), *shared) if number]
    expected = len(start) + length + 4 + sum(blocks) + 4 * len(blocks) + DIGEST
    if expected != size:
        raise ValueError(f"the file is damaged or truncated: it has {size} bytes instead of {expected}")
    return about, entries, sum(shared)


def _check_version(version: int) -> None:
    if version not in VERSIONS:
        raise ValueError(f"unsupported version {version} of the file format; versions 1 and 2 are supported")


def _take_header(cursor: Cursor) -> tuple[dict[str, Any], list[Entry], int, int]:
    """Return the description, the tensors, and the bytes of the raw block and of that of levels."""
    size, plain_size = (int.from_bytes(cursor.take(4, "header"), "little") for _ in range(2))
    deflated = _checked(cursor, size, "header")
    if plain_size > min(HEADER_LIMIT, HEADER_EXPANSION * size + (1 << 12)):
        raise ValueError(f"the file is damaged: a header of {plain_size} bytes")
    return _header(inflate(deflated, plain_size))


def unpack(opened: OpenedFile) -> Iterator[tuple[Entry, np.ndarray]]:
    """Yield each tensor of the file with its bit patterns (N,). Raises ValueError."""
    plain = [e for e in opened.entries if not e.block and not e.on_grid]
    shapes = [e.shape for e in opened.entries if e.on_grid]
    grids = iter(levels.decode_levels(Cursor(opened.levels), shapes) if shapes else [])
    sizes = [(count(e.shape), UNSIGNED[e.code]) for e in plain]
    if any(number for number, _ in sizes):
        cursor = Cursor(opened.raw)
        arrays = iter(decode_raw(cursor, sizes, "raw tensors"))
    elif len(opened.raw):
        raise ValueError("the file is damaged: a raw block without tensors")
    else:
        arrays = iter([np.zeros(0, unsigned) for _, unsigned in sizes])
    for entry, block in zip(opened.entries, opened.blocks, strict=True):
        bits: np.ndarray | None
        if entry.on_grid:
            bits = next(grids).values.view(np.uint32)
        else:
            bits = decode_layer(Cursor(block), entry.shape, entry.code)[0] if entry.block else next(arrays)
        assert bits is not None  # nothing was skipped
        yield entry, bits


def describe(opened: OpenedFile) -> tuple[list[tuple[Entry, LayerInfo | None, Counter]], Counter]:
    """Describe a file without decoding it. Raises ValueError.

    Returns:
        For each tensor its block's description (None if it is in the raw block) and bytes by category, and the bytes of
        the entire file by category, which sum to its size.
    """
    total = Counter(opened.used)
    rows: list[tuple[Entry, LayerInfo | None, Counter]] = []
    for entry, block in zip(opened.entries, opened.blocks, strict=True):
        if not entry.block:
            rows.append((entry, None, Counter()))
            continue
        cursor = Cursor(block)
        _, info = decode_layer(cursor, entry.shape, entry.code, skip=True)
        rows.append((entry, info, Counter(cursor.used)))
        total.update(cursor.used)
    if len(opened.raw):
        cursor = Cursor(opened.raw)
        cursor.byte("block fields")
        cursor.take(len(cursor.data) - cursor.at, "raw tensors")
        total.update(cursor.used)
    if len(opened.levels):
        total.update({"payload of weights": len(opened.levels)})
    return rows, total


def _checked(cursor: Cursor, size: int, category: str) -> memoryview:
    """Read the next `size` bytes and check the CRC-32 that follows them."""
    block = cursor.take(size, category)
    if zlib.crc32(block) != int.from_bytes(cursor.take(4, "checksums"), "little"):
        raise ValueError("the file is damaged: checksum mismatch of a block")
    return block


def _header(plain: bytes) -> tuple[dict, list[Entry], int, int]:
    try:
        header = json.loads(plain, parse_constant=_reject_constant)
    except RecursionError:
        raise ValueError("the file is damaged: the header is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("the file is damaged: the header is not UTF-8 text") from None
    if not isinstance(header, dict) or set(header) - {"levels"} != {"about", "tensors", "raw"}:
        raise ValueError("the file is damaged: the header does not have the keys about, tensors and raw")
    if not isinstance(header["about"], dict) or not isinstance(header["tensors"], list):
        raise ValueError("the file is damaged: about or tensors in the header have a wrong type")
    entries = [_entry(row) for row in header["tensors"]]
    if len({e.name for e in entries}) != len(entries):
        raise ValueError("the file is damaged: two tensors have the same name")
    levels_size = 0
    if "levels" in header:
        entries, levels_size = _on_grid(entries, header["levels"])
    return header["about"], entries, _natural(header["raw"]), levels_size


def _on_grid(entries: list[Entry], listed: Any) -> tuple[list[Entry], int]:
    """Return the entries, with those marked that are in the block of levels, and the bytes of that block."""
    if not isinstance(listed, list) or len(listed) != 2 or not isinstance(listed[1], list):
        raise ValueError("the file is damaged: invalid list of levels in the header")
    numbers = [_natural(number) for number in listed[1]]
    if numbers != sorted(set(numbers)) or not numbers or numbers[-1] >= len(entries):
        raise ValueError("the file is damaged: invalid list of levels in the header")
    if any(entries[number].block or entries[number].code != "f4" for number in numbers):
        raise ValueError("the file is damaged: levels of a tensor with a block, or of a type other than f4")
    marked = set(numbers)
    return [replace(entry, on_grid=number in marked) for number, entry in enumerate(entries)], _natural(listed[0])


def _entry(row) -> Entry:
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError("the file is damaged: invalid list of tensors in the header")
    name, code, shape, block = row
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT or not isinstance(code, str):
        raise ValueError("the file is damaged: invalid name or type of a tensor")
    if code not in UNSIGNED:
        raise ValueError(f"the file is damaged: unknown type {code!r} of {name!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"the file is damaged: invalid shape of {name!r}")
    shape = tuple(_natural(n) for n in shape)
    if math.prod(n or 1 for n in shape) >= 1 << 48:
        raise ValueError(f"the file is damaged: the shape of {name!r} is too large")
    return Entry(name, code, shape, _natural(block))


def _natural(value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 48:
        raise ValueError(f"the file is damaged: {str(value)[:40]} instead of a size")
    return value


def _reject_constant(name: str):
    raise ValueError(f"the file is damaged: {name} in the header")


def _u4(value: int) -> bytes:
    if value >= 1 << 32:
        raise ValueError(f"a part of the file has {value} bytes; at most 2^32 - 1 can be stored")
    return value.to_bytes(4, "little")


def _digest(data) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()
