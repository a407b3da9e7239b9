"""A network from any file: a compressed one of ours, a checkpoint of this project, or foreign weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import nn

from common.errors import UserError
from common.formats import load_network
from deep_compression.compressed import load_compressed_model
from deep_compression.container import MAGIC


def is_compressed(path: Path | str) -> bool:
    """Does the file begin as ours do? Raises UserError if it is not there."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_network(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The network of a compressed file, a checkpoint, or another package's format, in eval mode. Raises UserError."""
    return read_compressed(Path(path), factory) if is_compressed(path) else load_network(path, factory)


def read_compressed(path: Path, factory: Callable[[], nn.Module] | None = None) -> nn.Module | None:
    """What `common.formats` calls: the network, or None if the file is not a compressed one of ours. Raises UserError."""
    if not is_compressed(path):
        return None
    try:
        return load_compressed_model(path, factory)
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from problem


def file_digest(path: Path | str) -> str:
    """16 hexadecimal digits of a file's SHA-256, for a run's configuration."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
