"""The perceptual hash of a feature map: which low frequencies of its cosine transform reach their mean.

For a map X of H x W, with the un-normalised DCT-II

    D[u, v] = 4 sum_{y, x} X[y, x] cos(pi u (2y + 1) / 2H) cos(pi v (2x + 1) / 2W)

the hash is ``D[u, v] >= mean(L)`` over the corner L = D[0:8, 0:8], the term D[0, 0] included in the mean. A map with fewer
than 8 rows or columns uses all of them. No normalisation: it would weigh row and column 0 differently and flip bits.
"""

import math

import torch
from torch import Tensor

LOW = 8
_ELEMENTS_AT_ONCE = 1 << 20  # float64 copies of the maps are made in pieces of 8 MB, which stay in the cache


def cosines(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Rows u < min(8, size) of 2 cos(pi u (2y + 1) / (2 size)), shape (min(8, size), size), float64."""
    u = torch.arange(min(LOW, size), dtype=torch.float64, device=device).unsqueeze(1)
    y = torch.arange(size, dtype=torch.float64, device=device).unsqueeze(0)
    return 2 * torch.cos(math.pi * u * (2 * y + 1) / (2 * size))


def low_frequencies(maps: Tensor) -> Tensor:
    """The corner L of the un-normalised DCT-II: (..., H, W) -> (..., min(8, H), min(8, W)), float64."""
    height, width = maps.shape[-2:]
    rows = maps.double() @ cosines(width, maps.device).T
    return cosines(height, maps.device) @ rows


def hash_maps(maps: Tensor) -> Tensor:
    """Perceptual hashes of maps (N, C, H, W): bool, (N, C, bits) with bits = min(8, H) min(8, W).

    Raises ValueError for another number of dimensions, an empty one, or values that are not finite.
    """
    if maps.dim() != 4 or 0 in maps.shape:
        raise ValueError(f"maps must have shape (N, C, H, W) without an empty dimension, not {tuple(maps.shape)}")
    pictures_at_once = max(1, _ELEMENTS_AT_ONCE // maps[0].numel())
    return torch.cat([_hash(part) for part in maps.split(pictures_at_once)])


def _hash(maps: Tensor) -> Tensor:
    low = low_frequencies(maps).flatten(-2)
    if not torch.isfinite(low).all():
        raise ValueError("the maps hold values that are not finite")
    return low >= low.mean(-1, keepdim=True)
