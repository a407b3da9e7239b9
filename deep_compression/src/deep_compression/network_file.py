"""Compressed files as a format of `common.formats`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from common.errors import UserError
from deep_compression.compressed import load_compressed_model
from deep_compression.container import MAGIC


def is_compressed(path: Path | str) -> bool:
    """Does the file begin as ours do? Raises UserError if it is not there."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_compressed(path: Path, factory: Callable[[], nn.Module] | None = None) -> nn.Module | None:
    """What `common.formats` calls: the network, or None if the file is not a compressed one of ours. Raises UserError."""
    if not is_compressed(path):
        return None
    try:
        return load_compressed_model(path, factory)
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from problem
