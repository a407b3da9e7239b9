"""Read ATOM3D's LMDB files: compressed JSON only, since other formats can execute code (R. Townshend et al., arXiv 2012.04035).

A folder contains ``data.mdb`` with ``num_examples``, ``serialization_format`` and the items "0", "1", ...; an item is a table of
names and values, in which pandas wrote a frame as ``columns`` and rows of ``data``.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError

MAX_ITEM = 256 * 1024**2  # bytes of an item's JSON
MAX_ITEMS = 10**7
GZIP = 31  # zlib's window bits for gzip


def read_items(folder: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the items of a folder in order; frames as {column: list of values}.

    Raises:
        UserError: If the folder or the package lmdb is missing, or if an item is damaged, too large or not JSON.
    """
    try:
        import lmdb
    except ImportError as error:
        raise UserError("ATOM3D's files: the package lmdb is not installed; pip install lmdb") from error
    file = Path(folder) / "data.mdb"
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected ATOM3D's split-by-sequence-identity-30/data")
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as store, store.begin() as transaction:
            count = _count(file, transaction.get)
            for index in range(count):
                yield _item(file, index, transaction.get(str(index).encode()))
    except lmdb.Error as error:
        raise UserError(f"{file}: not a readable LMDB file ({error})") from error


def _count(file: Path, get: Any) -> int:
    kind, count = (bytes(get(key) or b"") for key in (b"serialization_format", b"num_examples"))
    if kind != b"json":
        shown = kind.decode("ascii", "replace") or "missing"
        raise UserError(
            f"{file}: serialization_format is {shown!r}; only json is read, since other formats can execute code"
        )
    if not count.isdigit() or not 0 < int(count) <= MAX_ITEMS:
        raise UserError(f"{file}: num_examples {count[:20]!r} is not a number from 1 to {MAX_ITEMS}")
    return int(count)


def _item(file: Path, index: int, value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise UserError(f"{file}: item {index} is missing")
    try:
        unpacking = zlib.decompressobj(GZIP)
        text = unpacking.decompress(value, MAX_ITEM)
        if not unpacking.eof:
            raise ValueError(f"it is cut off or larger than {MAX_ITEM} bytes")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is not a table of names and values")
        return {name: _columns(entry) if _is_frame(entry) else entry for name, entry in content.items()}
    except (ValueError, zlib.error, RecursionError) as error:
        raise UserError(f"{file}: item {index} cannot be read: {error}") from error


def _is_frame(entry: Any) -> bool:
    return isinstance(entry, Mapping) and {"columns", "data"} <= entry.keys()


def _columns(frame: Mapping[str, Any]) -> dict[str, list[Any]]:
    names, rows = frame["columns"], frame["data"]
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise ValueError(f"rows of a frame do not have its {len(names)} columns")
    return {str(name): [row[position] for row in rows] for position, name in enumerate(names)}
