"""Stratified splits: both parts have the class proportions of the data set."""

import numpy as np
from torch import Tensor

from common.errors import UserError


def stratified_split(labels: Tensor | np.ndarray, held_out: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (N - held_out,) and (held_out,) int64 of two disjoint, stratified, shuffled parts.

    The result equals that of scikit-learn's `train_test_split(arange(N), test_size=held_out, stratify=labels,
    random_state=seed)`, which takes seconds to import. Raises UserError if a class has fewer than two examples or a part
    would have fewer examples than there are classes.
    """
    labels = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = len(labels) - held_out
    if counts.size == 0 or counts.min() < 2:
        raise UserError("stratified split: a class has fewer than two examples; add examples or remove the class")
    if min(kept, held_out) < len(classes):
        raise UserError(
            f"stratified split: {len(labels)} examples split into {kept} and {held_out} are too few for {len(classes)} classes; "
            "choose another fraction"
        )
    random = np.random.RandomState(seed)  # legacy generator: the same numbers in every version of numpy
    kept_counts = apportion(counts, kept, random)
    held_counts = apportion(counts - kept_counts, held_out, random)
    members = np.split(np.argsort(codes, kind="mergesort"), np.cumsum(counts)[:-1])
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for own, keep, hold in zip(members, kept_counts, held_counts, strict=True):
        own = own[random.permutation(len(own))]
        parts[0].append(own[:keep])
        parts[1].append(own[keep : keep + hold])
    first, second = (np.concatenate(part) for part in parts)
    return random.permutation(first), random.permutation(second)


def apportion(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Distribute `total` over classes in proportion to their counts (K,), by the largest-remainder method.

    Ties are broken at random.
    """
    exact = counts / counts.sum() * total
    quotas = np.floor(exact)
    remainder = exact - quotas
    missing = int(total - quotas.sum())
    for value in np.sort(np.unique(remainder))[::-1]:
        if missing <= 0:
            break
        tied = np.flatnonzero(remainder == value)
        chosen = random.choice(tied, size=min(len(tied), missing), replace=False)
        quotas[chosen] += 1
        missing -= len(chosen)
    return quotas.astype(np.int64)


def held_out_count(size: int, fraction: float) -> int:
    """Return the number of held-out examples. Raises UserError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise UserError(f"hold-out fraction {fraction} is out of range; give a value between 0 and 1, such as 0.1")
    return round(size * fraction)
