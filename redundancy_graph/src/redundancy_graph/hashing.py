"""Perceptual hash of a feature map: which low frequencies of its cosine transform reach their mean.

For a feature map X of H x W, with the unnormalized DCT-II

    D[u, v] = 4 sum_{y, x} X[y, x] cos(pi u (2y + 1) / 2H) cos(pi v (2x + 1) / 2W)

the hash is ``D[u, v] >= mean(L)`` for the corner L = D[0:8, 0:8]; the mean includes D[0, 0]. A feature map with fewer than 8 rows
or columns uses all of them. Normalization would scale row and column 0 differently and flip bits.
"""

import math

import torch
from torch import Tensor

LOW = 8
_ELEMENTS_AT_ONCE = 1 << 20  # converted to float64 in blocks of 8 MB, which fit in the cache


def dct_basis(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the rows u < min(8, size) of 2 cos(pi u (2y + 1) / (2 size)), (min(8, size), size) float64."""
    u = torch.arange(min(LOW, size), dtype=torch.float64, device=device).unsqueeze(1)
    y = torch.arange(size, dtype=torch.float64, device=device).unsqueeze(0)
    return 2 * torch.cos(math.pi * u * (2 * y + 1) / (2 * size))


def low_frequencies(maps: Tensor) -> Tensor:
    """Compute the corner L of the unnormalized DCT-II: (..., H, W) -> (..., min(8, H), min(8, W)), float64."""
    height, width = maps.shape[-2:]
    rows = maps.double() @ dct_basis(width, maps.device).T
    return dct_basis(height, maps.device) @ rows


def hash_maps(maps: Tensor) -> Tensor:
    """Compute the hashes (N, C, bits), bool, of feature maps (N, C, H, W), with bits = min(8, H) min(8, W).

    Raises ValueError for another number of dimensions, an empty dimension, or values that are not finite.
    """
    if maps.dim() != 4 or 0 in maps.shape:
        raise ValueError(f"feature maps must have shape (N, C, H, W) without empty dimensions, got {tuple(maps.shape)}")
    images_at_once = max(1, _ELEMENTS_AT_ONCE // maps[0].numel())
    return torch.cat([_hash(part) for part in maps.split(images_at_once)])


def _hash(maps: Tensor) -> Tensor:
    low = low_frequencies(maps).flatten(-2)
    if not torch.isfinite(low).all():
        raise ValueError("feature maps contain values that are not finite")
    return low >= low.mean(-1, keepdim=True)
