"""Reader of MNIST's idx files, plain or gzipped (format: the MNIST page of LeCun, Cortes and Burges)."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

UNSIGNED_BYTE = 0x08
SIZE_LIMIT = 2**30  # bytes of an array; MNIST has 47 million
BLOCK = 2**20
SPLITS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Read the array of unsigned bytes in an idx file. Its shape is read from the header and must match the file's length.

    Raises UserError naming the file for a wrong magic number, another element type, or too few or too many bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return _read_array(cast(BinaryIO, file), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); fetch it again") from error


def _read_array(file: BinaryIO, path: Path) -> np.ndarray:
    """Read the array; no more is unpacked than the header specifies, and the header is checked first."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise UserError(f"{path}: not an idx file (wrong magic number); fetch it again")
    kind, dimensions = start[2], start[3]
    if kind != UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise UserError(
            f"{path}: element type 0x{kind:02x} with {dimensions} dimensions, expected bytes (0x08) with 1 to 4; fetch it again"
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise UserError(f"{path}: truncated header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    expected, specified = math.prod(shape), " x ".join(map(str, shape))
    if not 0 < expected <= SIZE_LIMIT:
        raise UserError(
            f"{path}: the header specifies {expected} bytes ({specified}), expected 1 to {SIZE_LIMIT}; fetch it again"
        )
    data = bytearray()
    while len(data) <= expected and (block := file.read(min(BLOCK, expected + 1 - len(data)))):
        data += block
    if len(data) != expected:
        found = f"{len(data)} bytes of data" if len(data) < expected else "more bytes of data"
        raise UserError(f"{path}: {found}, but the header specifies {expected} ({specified}); fetch it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def find_idx_files(folder: Path) -> dict[str, Path] | None:
    """Find the four files in a folder, by 'train images' etc., plain rather than gzipped; None unless all exist.

    Names may have a dot in place of the dash before 'idx', and each file may be in a folder of its own name, as on Kaggle.
    """
    found = {}
    for split, prefix in SPLITS.items():
        for content, ending in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte")):
            plain = [f"{prefix}-{content}{mark}{ending}" for mark in "-."]
            names = [name + packed for packed in ("", ".gz") for name in plain]
            places = [folder / place for name in names for place in (name, f"{name.removesuffix('.gz')}/{name}")]
            path = next((place for place in places if place.is_file()), None)
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
