"""Compressed files as a network format of :mod:`common.formats`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from common.errors import UserError
from deep_compression.compressed import load_compressed_model
from deep_compression.container import MAGIC


def is_compressed(path: Path | str) -> bool:
    """Return whether a file starts with the magic number of compressed files. Raises UserError if it does not exist."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_compressed(path: Path, factory: Callable[[], nn.Module] | None = None) -> nn.Module | None:
    """Load the network of a compressed file for :mod:`common.formats`; None for any other file. Raises UserError."""
    if not is_compressed(path):
        return None
    try:
        return load_compressed_model(path, factory)
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from problem
