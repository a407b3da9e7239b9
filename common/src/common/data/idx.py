"""MNIST's idx files, plain or gzipped (format: the MNIST page of LeCun, Cortes and Burges)."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

UNSIGNED_BYTE = 0x08
SPLITS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an idx file; its sizes come from the file and must match its length.

    Raises UserError naming the file for a wrong magic number, another element type, or too few or too many bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise UserError(f"{path}: not an idx file (wrong magic number); fetch it again")
    kind, dimensions = raw[2], raw[3]
    if kind != UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise UserError(
            f"{path}: an idx file of type 0x{kind:02x} with {dimensions} dimensions, not one of bytes (0x08)"
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise UserError(f"{path}: ends within its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(raw) - start != expected:
        raise UserError(
            f"{path}: its header promises {expected} bytes ({' x '.join(map(str, shape))}), it has {len(raw) - start}; "
            "fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def idx_files(folder: Path) -> dict[str, Path] | None:
    """The four files in a folder by 'train images' and so on, plain before gzipped; None unless all are there."""
    found = {}
    for split, prefix in SPLITS.items():
        for what, ending in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            names = (f"{prefix}-{ending}", f"{prefix}-{ending}.gz")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                return None
            found[f"{split} {what}"] = path
    return found


def read_images(images_path: Path, labels_path: Path, num_classes: int = 10) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 28, 28) uint8 and labels (N,) int64. Raises UserError naming the file that does not fit."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{images_path}: holds an array {images.shape}, expected pictures (N, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{labels_path}: has {labels.shape} labels for {len(images)} pictures in {images_path.name}")
    if labels.size and labels.max() >= num_classes:
        raise UserError(f"{labels_path}: label {labels.max()} is out of range 0 to {num_classes - 1}")
    return torch.from_numpy(images[:, None].copy()), torch.from_numpy(labels.astype(np.int64))
