"""Similarity of the filters of a layer: the share of hash bits on which their maps agree, over all pictures.

    s(i, j) = 1/N sum_n (1 - Hamming(h_ni, h_nj) / bits) = agree(i, j) / (N bits)

With bits as +-1 in a matrix B of C rows and M = N bits columns, agree = (M + B B^T) / 2: one matrix product. Counts are
integers, so a similarity of exactly the threshold is seen as one: 3430 / 4900 >= 0.7 holds, which a mean of N quotients misses.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from redundancy_graph.hashing import hash_maps

_EXACT = 1 << 24  # float32 holds every integer up to here, whatever the order of summation
_ELEMENTS_AT_ONCE = 1 << 26


def filter_similarity(maps: Tensor | ArrayLike) -> np.ndarray:
    """Similarity matrix (C, C), float64, symmetric, in [0, 1], of feature maps (N, C, H, W).

    Every entry is the quotient of two integers, agree / (N min(8, H) min(8, W)), correctly rounded. The diagonal is 1.
    Raises ValueError for maps of another shape or with values that are not finite.
    """
    counts, total = agreement_counts(hash_maps(torch.as_tensor(maps)))
    return counts / total


def agreement_counts(bits: Tensor) -> tuple[np.ndarray, int]:
    """(agree, total): equal bits of every two filters, int64 (C, C), out of ``total`` = N K, for bool bits (N, C, K)."""
    pictures, channels, per_map = bits.shape
    total = pictures * per_map
    rows = bits.transpose(0, 1).reshape(channels, total)
    columns = min(_EXACT - 1, max(1, _ELEMENTS_AT_ONCE // channels))
    product = torch.zeros(channels, channels, dtype=torch.int64)
    for block in rows.split(columns, dim=1):
        signs = block.to(torch.float32).mul_(2).sub_(1)
        product += (signs @ signs.T).to("cpu", torch.int64)
    return ((total + product) // 2).numpy(), total
