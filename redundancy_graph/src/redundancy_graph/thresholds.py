"""The threshold that meets a target of MACs."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from common.errors import UserError

TOLERANCE = 0.02  # a target of MACs is met within [1 - TOLERANCE, 1] of it
_COARSE = 0.01  # spacing of the first grid of thresholds


def find_threshold(
    macs_at: Callable[[float], int], values: Iterable[float], dense_macs: int, keep_fraction: float
) -> float:
    """The threshold whose network has [0.98, 1.00] times ``keep_fraction * dense_macs`` MACs, as near to it as was found.

    macs_at: MACs of the network at a threshold. values: all similarities that occur; between two neighbours nothing changes.
    MACs are not monotone in the threshold, so it is scanned, not bisected: a grid of hundredths, then finer and finer ones
    where the MACs of two neighbours lie on both sides of the target, at last every value there is. Raises UserError with
    the nearest MACs that can be reached.
    """
    target = keep_fraction * dense_macs
    found: dict[float, int] = {}

    def met(macs: int) -> bool:
        return (1 - TOLERANCE) * target <= macs <= target

    def scan(thresholds: Iterable[float], label: str) -> float | None:
        new = [t for t in thresholds if t not in found]
        for t in tqdm(new, desc=label, disable=None, leave=False):
            found[t] = macs_at(t)
        good = [t for t in found if met(found[t])]
        return max(good, key=lambda t: (found[t], t)) if good else None

    occurring = np.unique(np.asarray(list(values), dtype=np.float64))
    spacing, smallest = _COARSE, 1 / max(1, len(occurring))
    grid = [round(i * spacing, 10) for i in range(1, round(1 / spacing) + 1)]
    best = scan(grid, "thresholds")
    while best is None and spacing > smallest / 10:
        spacing /= 10
        best = scan(_between_neighbours(found, target, spacing), f"thresholds by {spacing:g}")
    if best is None:
        best = scan(occurring[(occurring > 0) & (occurring <= 1)].tolist(), "all thresholds")
    if best is None:
        below, above = _nearest(found, target)
        raise UserError(
            f"--target-macs {keep_fraction:g}: no threshold keeps {(1 - TOLERANCE) * keep_fraction:.4g} to {keep_fraction:.4g} of"
            f" the MACs; the nearest are {_describe(below, found, dense_macs)} and {_describe(above, found, dense_macs)}"
        )
    return best


def _between_neighbours(found: dict[float, int], target: float, spacing: float) -> list[float]:
    """A finer grid wherever two neighbouring thresholds have MACs on both sides of the target."""
    known = sorted(found)
    grid = []
    for low, high in pairwise(known):
        if min(found[low], found[high]) <= target <= max(found[low], found[high]):
            steps = math.ceil((high - low) / spacing - 1e-9)
            grid += [round(low + i * spacing, 10) for i in range(1, steps)]
    return grid


def _nearest(found: dict[float, int], target: float) -> tuple[float | None, float | None]:
    below = max((t for t in found if found[t] <= target), key=lambda t: found[t], default=None)
    above = min((t for t in found if found[t] > target), key=lambda t: found[t], default=None)
    return below, above


def _describe(threshold: float | None, found: dict[float, int], dense_macs: int) -> str:
    return "nothing" if threshold is None else f"{found[threshold] / dense_macs:.4f} (--threshold {threshold!r})"
