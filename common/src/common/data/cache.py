"""Decoded pictures on disk, so that the next start need not decode them again."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.atomic import atomic_file

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/compression-papers, or ~/.cache/compression-papers."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "compression-papers"


def cached_pixels(key: str, decode: Callable[[], np.ndarray], folder: Path | None = None) -> Tensor:
    """Pictures (N, C, H, W) uint8 from the cache file of this key, else from `decode`, whose result is then cached.

    A cache file that is damaged (its SHA-256 does not fit) is made anew. A cache that cannot be written is only logged.
    """
    path = (folder or cache_folder()) / f"pictures-{key[:32]}.safetensors"
    pixels = _read(path)
    if pixels is None:
        pixels = torch.from_numpy(decode())
        try:
            _write(path, pixels)
        except (OSError, SafetensorError) as error:
            _log.warning("could not keep decoded pictures in %s (%s); the next start decodes them again", path, error)
    return pixels


def _read(path: Path) -> Tensor | None:
    """The pictures of a whole cache file; None if there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header, pixels = file.metadata() or {}, file.get_tensor("pixels")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError):
        _log.warning("%s is damaged and is made anew", path)
        return None
    whole = pixels.dtype == torch.uint8 and header.get("sha256") == _sha256(pixels)
    if not whole:
        _log.warning("%s is damaged and is made anew", path)
    return pixels if whole else None


def _write(path: Path, pixels: Tensor) -> None:
    with atomic_file(path) as temporary:
        save_file({"pixels": pixels}, temporary, metadata={"sha256": _sha256(pixels)})


def _sha256(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().data).hexdigest()
