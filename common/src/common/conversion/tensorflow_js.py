"""Read the variables of a TensorFlow.js model: ``model.json`` and the shards next to it, which hold the values one after another."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError

JSON_LIMIT = 16 * 2**20  # bytes
SHARDS_LIMIT = 2**30  # bytes of all shards together
COUNT_LIMIT = 10_000  # of variables and shards
DIMENSION_LIMIT = 2**20
TYPES = {"float32": "<f4", "int32": "<i4", "bool": "u1"}
QUANTIZED = {"uint8": "u1", "uint16": "<u2", "float16": "<f2"}


def read_tensorflow_js(path: Path) -> dict[str, np.ndarray]:
    """Return {name of a variable: float32 values}; quantized ones are scale * value + min. path: model.json.

    Raises UserError, naming the file, if it or a shard is damaged, missing or too large.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError(f"larger than {JSON_LIMIT:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        groups = content["weightsManifest"]
        if not isinstance(groups, list) or len(groups) > COUNT_LIMIT:
            raise ValueError("weightsManifest is not a list of groups")
        found: dict[str, np.ndarray] = {}
        left = SHARDS_LIMIT
        for group in groups:
            data = _read_shards(path, group["paths"], left)
            left -= len(data)
            _split(data, group["weights"], found)
        return found
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path}: not a TensorFlow.js model, or damaged ({reason}); give its model.json, next to its shards"
        ) from error


def _read_shards(path: Path, names: Any, limit: int) -> bytes:
    """Return the bytes of the shards of a group, all in the folder of ``path``."""
    if not isinstance(names, list) or len(names) > COUNT_LIMIT:
        raise ValueError("paths is not a list of names")
    parts = []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name:
            raise ValueError("the name of a shard is not that of a file in the same folder")
        shard = path.parent / name
        if not shard.is_file():
            raise UserError(f"{shard}: no such file; {path.name} names it, so download it too")
        limit -= shard.stat().st_size
        if limit < 0:
            raise ValueError(f"the shards have more than {SHARDS_LIMIT:,} bytes")
        parts.append(shard.read_bytes())
    return b"".join(parts)


def _split(data: bytes, weights: Any, found: dict[str, np.ndarray]) -> None:
    """Add the variables of a group, whose values are ``data``, to ``found``."""
    if not isinstance(weights, list) or len(weights) + len(found) > COUNT_LIMIT:
        raise ValueError("weights is not a list, or too long")
    start = 0
    for entry in weights:
        name, shape, quantization = entry["name"], entry["shape"], entry.get("quantization")
        if not isinstance(name, str) or name in found:
            raise ValueError("the name of a variable is not text, or occurs twice")
        if not isinstance(shape, list) or len(shape) > 4 or not all(type(n) is int for n in shape):
            raise ValueError(f"the shape of {name[:100]} is not a list of up to 4 integers")
        if not all(0 < n <= DIMENSION_LIMIT for n in shape):
            raise ValueError(f"the shape of {name[:100]} is {shape}")
        known = TYPES if quantization is None else QUANTIZED
        dtype = np.dtype(known[entry["dtype"] if quantization is None else quantization["dtype"]])
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(data):
            raise ValueError(f"{name[:100]} ends at byte {end:,} of {len(data):,}: a shard is truncated")
        values = np.frombuffer(data[start:end], dtype).reshape(shape).astype(np.float32)
        if quantization is not None and dtype.kind == "u":
            values = values * np.float32(_number(quantization["scale"])) + np.float32(_number(quantization["min"]))
        found[name] = values
        start = end
    if start != len(data):
        raise ValueError(f"{len(data) - start:,} bytes of the shards belong to no variable")


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ValueError("a scale is not a number")
    return value
