"""Select the channels with the highest scores."""

from collections.abc import Sequence

import numpy as np


def top_channels(scores: Sequence[float], count: int, round_to: int = 1, conv_groups: int = 1) -> list[int]:
    """Return the indices, ascending, of the ``count`` largest scores; among equal scores, lower indices come first.

    Args:
        round_to: Round ``count`` up to a multiple of this number, to at least 1 and at most the number of channels.
        conv_groups: Number of equal blocks of consecutive channels, from each of which the same number is selected
            (groups of a grouped convolution).
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) % conv_groups:
        raise ValueError(f"{len(values)} channels do not split into {conv_groups} equal blocks")
    blocks = values.reshape(conv_groups, -1)
    per_block = min(blocks.shape[1], -(-round_up(count, round_to, len(values)) // conv_groups))
    order = np.argsort(-blocks, axis=1, kind="stable")[:, :per_block]
    return sorted((order + np.arange(conv_groups)[:, None] * blocks.shape[1]).ravel().tolist())


def round_up(count: int, round_to: int, size: int) -> int:
    """Round ``count`` up to a multiple of ``round_to``, to at least 1 and at most ``size``."""
    return max(1, min(size, -(-count // round_to) * round_to))
