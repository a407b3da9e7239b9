"""Reader of MNIST's idx files, plain or gzipped (format: the MNIST page of LeCun, Cortes and Burges)."""

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
    """Read the array of unsigned bytes in an idx file. Its shape is read from the header and must match the file's length.

    Raises UserError naming the file for a wrong magic number, another element type, or too few or too many bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise UserError(f"{path}: not an idx file (wrong magic number); fetch it again")
    kind, dimensions = raw[2], raw[3]
    if kind != UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise UserError(
            f"{path}: element type 0x{kind:02x} with {dimensions} dimensions, expected bytes (0x08) with 1 to 4; fetch it again"
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise UserError(f"{path}: truncated header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(raw) - start != expected:
        raise UserError(
            f"{path}: {len(raw) - start} bytes of data, but the header specifies {expected} "
            f"({' x '.join(map(str, shape))}); fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def find_idx_files(folder: Path) -> dict[str, Path] | None:
    """Find the four files in a folder, by 'train images' etc., plain rather than gzipped; None unless all exist."""
    found = {}
    for split, prefix in SPLITS.items():
        for content, ending in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            names = (f"{prefix}-{ending}", f"{prefix}-{ending}.gz")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                return None
            found[f"{split} {content}"] = path
    return found


def read_idx_images(images_path: Path, labels_path: Path, num_classes: int = 10) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 28, 28) uint8 and labels (N,) int64. Raises UserError naming the inconsistent file."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{images_path}: array of shape {images.shape}, expected images (N, 28, 28); fetch it again")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_path}: labels of shape {labels.shape} for {len(images)} images in {images_path.name}; fetch both again"
        )
    if labels.size and labels.max() >= num_classes:
        raise UserError(f"{labels_path}: label {labels.max()} is out of range 0 to {num_classes - 1}; fetch it again")
    return torch.from_numpy(images[:, None].copy()), torch.from_numpy(labels.astype(np.int64))
