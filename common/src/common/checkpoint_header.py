"""Read the headers of safetensors files, and of checkpoints in several files, without their tensors and without torch.

length            8 bytes, little-endian
header            JSON: {tensor name: {"dtype", "shape", "data_offsets"}, "__metadata__": {key: text}}
tensors           in the order of their offsets, without gaps
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError

FORMAT = "compression-papers-1"
METADATA = "compression_papers"  # key of our header in the metadata of a safetensors file
HEADER_LIMIT = 16 * 2**20  # bytes of JSON before the tensors
SIZE_LIMIT = 8 * 2**30
SHARDS_LIMIT = 1000
SEAL = "header_sha256"  # key in the header: SHA-256 of the other keys; missing in files of earlier versions
INDEX = ".index.json"  # suffix of the index of a checkpoint in several files
FOREIGN_INDEX = re.compile(r"\.index(\.\w+)?\.json$")  # also of one precision: model.safetensors.index.fp16.json
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
DIMENSION_LIMIT = 2**48


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a header. dtype: as in the file, such as "F32"."""

    dtype: str
    shape: tuple[int, ...]


def check_file(path: Path) -> None:
    """Raise UserError if a file is missing or larger than the limit for checkpoints."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > SIZE_LIMIT:
        raise UserError(f"{path}: larger than {SIZE_LIMIT} bytes, the limit for checkpoints")


def check_header_length(path: Path) -> int:
    """Return the number of bytes of a safetensors file's header. Raises UserError if the file cannot contain it."""
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if len(head) < 8 or length > min(HEADER_LIMIT, path.stat().st_size - 8):
        raise UserError(f"{path} is not a safetensors file, or is truncated; read a state dict (.pth) with --weights")
    return length


def read_tensor_entries(path: Path | str) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Read (metadata, {tensor name: entry}) of a safetensors file. Raises UserError if the header is not valid."""
    path = Path(path)
    length = check_header_length(path)
    try:
        with open(path, "rb") as file:
            file.seek(8)
            content = json.loads(file.read(length))
        metadata = content.pop("__metadata__", None) or {}
        entries, end = {}, 0
        for name, entry in content.items():
            shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
            entries[name] = TensorEntry(_text(entry["dtype"]), tuple(map(_natural, shape)))
            bits = BITS.get(entry["dtype"])
            if not 0 <= _natural(start) <= _natural(stop) or (bits and bits * math.prod(shape) != 8 * (stop - start)):
                raise ValueError(f"the shape of {name!r} does not fit its bytes")
            end = max(end, stop)
        if end != path.stat().st_size - 8 - length:
            raise ValueError(f"{end} bytes of tensors are declared, the file has {path.stat().st_size - 8 - length}")
        return {key: _text(value) for key, value in metadata.items()}, entries
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a valid safetensors file, or is truncated: {error}") from error


def read_index(index: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read (metadata, {tensor name: file name}) of a checkpoint in several files of one folder. Raises UserError."""
    check_file(index)
    try:
        if index.stat().st_size > HEADER_LIMIT:
            raise ValueError
        content = json.loads(index.read_text(encoding="utf-8"))
        metadata, places = content.get("metadata") or {}, content["weight_map"]
        files = set(places.values())
        plain = all(isinstance(name, str) and Path(name).name == name for name in files)
        if not plain or len(files) > SHARDS_LIMIT:
            raise ValueError
        return {key: text for key, text in metadata.items() if isinstance(text, str)}, places
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: not a valid index file of a sharded checkpoint") from error


def parse_header(metadata: Mapping[str, str], path: Path | str) -> tuple[dict[str, Any], str | None]:
    """Return the header of :func:`common.checkpoint.save_model`, without its checksum, and the checksum. Raises UserError."""
    try:
        header = json.loads(metadata[METADATA])
        if header["format"] != FORMAT:
            raise UserError(f"{path}: unknown format {header['format']!r}; this version reads {FORMAT!r}")
        arch, arguments, _ = header["arch"], header["args"], header["sha256"]
        if not (arch is None or isinstance(arch, str)) or not isinstance(arguments, dict):
            raise ValueError("wrong type of architecture")
        return header, header.pop(SEAL, None)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a checkpoint of this project ({error!r}); load external weights with --weights"
        ) from error


def check_seal(header: Mapping[str, Any], seal: str | None, path: Path | str) -> None:
    """Raise UserError if a header does not match its checksum."""
    if seal != (header_digest(header) if seal is not None or _has_checksum(header) else None):
        raise UserError(
            f"{path} is damaged: its header does not match its checksum; restore the file, or write it again"
        )


def sealed(header: Mapping[str, Any]) -> str:
    """Return a header as JSON, with its checksum."""
    plain = json.loads(json.dumps(header))  # as it is read: tuples are lists, keys are text
    return json.dumps({**plain, SEAL: header_digest(plain)})


def header_digest(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the JSON of a header without its checksum."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _has_checksum(header: Mapping[str, Any]) -> bool:
    """Return whether a header without :data:`SEAL` has another checksum than that of the tensors: its name is damaged."""
    return any(re.fullmatch("[0-9a-f]{64}", str(value)) for key, value in header.items() if key != "sha256")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is not text")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < DIMENSION_LIMIT:
        raise ValueError("a size is not a natural number")
    return value
