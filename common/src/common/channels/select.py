"""From scores to kept channels, for methods that rank."""

from collections.abc import Sequence

import numpy as np


def top_channels(scores: Sequence[float], count: int, round_to: int = 1, conv_groups: int = 1) -> list[int]:
    """The indices, ascending, of the ``count`` largest scores; ties go to the lower index.

    round_to: the count is rounded up to a multiple, never above the number of channels and never to none.
    conv_groups: as many from each of this many equal runs of channels (grouped convolutions).
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) % conv_groups:
        raise ValueError(f"{len(values)} channels do not split into {conv_groups} equal runs")
    runs = values.reshape(conv_groups, -1)
    per_run = min(runs.shape[1], -(-rounded(count, round_to, len(values)) // conv_groups))
    order = np.argsort(-runs, axis=1, kind="stable")[:, :per_run]
    return sorted((order + np.arange(conv_groups)[:, None] * runs.shape[1]).ravel().tolist())


def rounded(count: int, round_to: int, size: int) -> int:
    """``count`` rounded up to a multiple of ``round_to``, at least 1 and at most ``size``."""
    return max(1, min(size, -(-count // round_to) * round_to))
