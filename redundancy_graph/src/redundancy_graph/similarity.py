"""Similarity of the filters of a layer: the fraction of hash bits on which their feature maps agree, over all images.

    s(i, j) = 1/N sum_n (1 - Hamming(h_ni, h_nj) / bits) = agree(i, j) / (N bits)

With bits as +-1 in a matrix B of C rows and M = N bits columns, agree = (M + B B^T) / 2: one matrix product. Counts are
integers, so a similarity equal to the threshold is an edge: 3430 / 4900 >= 0.7 holds, but not for a mean of N quotients.
"""

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from redundancy_graph.hashing import hash_maps

_EXACT = 1 << 24  # float32 represents every integer up to this value
_ELEMENTS_AT_ONCE = 1 << 26


def filter_similarity(maps: Tensor | ArrayLike) -> np.ndarray:
    """Compute the similarity matrix of the filters of one layer (Li et al. 2024, section 3).

    Every entry is the quotient of two integers, agree / (N min(8, H) min(8, W)), correctly rounded. The diagonal is 1.
    Feature maps of one pixel cannot be compared: the single bit of their hash is always 1. A warning says so, and the
    filters are similar to themselves only.

    Args:
        maps: Feature maps of N images, (N, C, H, W).

    Returns:
        Symmetric matrix (C, C), float64, in [0, 1].

    Raises:
        ValueError: If feature maps have another shape or are not finite.
    """
    bits = hash_maps(torch.as_tensor(maps))
    if is_constant(bits):
        warnings.warn(
            "feature maps of one pixel: their hash has a single bit, always 1; no filter is similar", stacklevel=2
        )
        return np.eye(bits.shape[1])
    counts, total = agreement_counts(bits)
    return counts / total


def is_constant(bits: Tensor) -> bool:
    """Return whether hashes (N, C, bits) have a single bit: those of feature maps of one pixel, equal for all filters."""
    return bits.shape[-1] == 1


def agreement_counts(bits: Tensor) -> tuple[np.ndarray, int]:
    """Return the number of equal bits of every two filters, (C, C) int64, and its maximum N K, for bool bits (N, C, K)."""
    images, channels, per_map = bits.shape
    total = images * per_map
    rows = bits.transpose(0, 1).reshape(channels, total)
    columns = min(_EXACT - 1, max(1, _ELEMENTS_AT_ONCE // channels))
    product = torch.zeros(channels, channels, dtype=torch.int64)
    for block in rows.split(columns, dim=1):
        signs = block.to(torch.float32).mul_(2).sub_(1)
        product += (signs @ signs.T).to("cpu", torch.int64)
    return ((total + product) // 2).numpy(), total
