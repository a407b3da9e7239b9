"""Cache of decoded images on disk."""

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
    """Return $XDG_CACHE_HOME/compression-papers, or ~/.cache/compression-papers."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "compression-papers"


def cached_pixels(key: str, decode: Callable[[], np.ndarray], folder: Path | None = None) -> Tensor:
    """Return images (N, C, H, W) uint8 from the cache file of this key, or call `decode` and cache its result.

    A damaged cache file (with a wrong SHA-256) is written again. If the cache cannot be written, a warning is logged.
    """
    path = (folder or cache_folder()) / f"images-{key[:32]}.safetensors"
    pixels = _read(path)
    if pixels is None:
        pixels = torch.from_numpy(decode())
        try:
            _write(path, pixels)
        except (OSError, SafetensorError) as error:
            _log.warning("%s: decoded images cannot be cached (%s); the next start decodes them again", path, error)
    return pixels


def _read(path: Path) -> Tensor | None:
    """Return the images in a cache file; None if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header, pixels = file.metadata() or {}, file.get_tensor("pixels")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError):
        _log.warning("%s: damaged cache file; the images are decoded again", path)
        return None
    valid = pixels.dtype == torch.uint8 and header.get("sha256") == _sha256(pixels)
    if not valid:
        _log.warning("%s: damaged cache file; the images are decoded again", path)
    return pixels if valid else None


def _write(path: Path, pixels: Tensor) -> None:
    with atomic_file(path) as temporary:
        save_file({"pixels": pixels}, temporary, metadata={"sha256": _sha256(pixels)})


def _sha256(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().data).hexdigest()
