"""scikit-learn's 1,797 handwritten digits (E. Alpaydin and C. Kaynak, UCI, 1998): no download, trains in seconds."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.split import stratified_split
from common.errors import UserError

CLASSES = [str(digit) for digit in range(10)]
TEST_SIZE = 500
SIZE = 32  # pixels


def read_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (1297, 3, 32, 32) uint8 and labels, test images (500, 3, 32, 32) and labels.

    The 8x8 images with values 0..16 are scaled to 0..255 and resized bilinearly. The split is stratified, with seed 0.
    """
    with gzip.open(_digits_file(), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)  # (1797, 65): 64 pixels, then the label
    images = torch.from_numpy(upsample(table[:, :64].reshape(-1, 8, 8)))[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(table[:, 64]).to(torch.int64)
    train, test = (torch.from_numpy(part) for part in stratified_split(labels, TEST_SIZE, seed=0))
    return images[train], labels[train], images[test], labels[test]


def upsample(small: np.ndarray) -> np.ndarray:
    """Resize values 0..16 (N, 8, 8) to pixels 0..255 (N, 32, 32) uint8: bilinear, half-pixel centers, halves rounded up.

    Integer arithmetic gives the same pixels, and thus the same fingerprint, on every machine.
    """
    centers = np.clip(2 * np.arange(SIZE) - 3, 0, 56)  # of the 32 pixels on the grid of 8, in eighths
    weights = np.clip(8 - abs(centers[:, None] - 8 * np.arange(8)), 0, None)  # (32, 8), in eighths
    sums = weights @ small.astype(np.int64) @ weights.T  # in 64ths of 0..16
    return ((255 * sums + 512) // 1024).astype(np.uint8)


def _digits_file() -> Path:
    """Find the file inside the installed scikit-learn without importing it, which takes two seconds."""
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise UserError(
        "digits: the file of the data set is missing from scikit-learn; install it again: pip install scikit-learn"
    )
