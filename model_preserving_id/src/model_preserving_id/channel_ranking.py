"""The order in which the channels of a group are selected, and the error at each width. Widths are chosen from these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy  # submodules are imported on first use

from common.channels import ChannelGroup
from common.limits import Limits
from model_preserving_id.activations import GramStatistics
from model_preserving_id.fold import find_representatives
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.pivoted import ROUNDOFF, PivotedFactor, least_squares, pivoted_cholesky

UNLIMITED = Limits()


@dataclass(frozen=True, eq=False)
class ChannelRanking:
    """Nested index sets of one group of C channels.

    Attributes:
        order: (C,) channels in the order of selection: the first k are kept at width k.
        pivot: (C + 1,) |r_{k+1,k+1}| / |r_11| at every width k, the paper's error.
        frobenius: (C + 1,) ||Z - Z_I T||_F / ||Z||_F at every width k.
        widths: Allowed widths, ascending; the last one is C.
        gram: Z^T Z of the group.
    """

    group: str
    order: np.ndarray
    pivot: np.ndarray
    frobenius: np.ndarray
    widths: tuple[int, ...]
    gram: np.ndarray

    @cached_property
    def sigma(self) -> np.ndarray:
        """(C + 1,) sigma_{k+1} / sigma_1 at every width k: singular values of Z, the error of the authors' code for CIFAR-10."""
        squares = np.maximum(scipy.linalg.eigvalsh(self.gram)[::-1], 0.0)
        return np.sqrt(np.append(squares, 0.0) / (squares[0] or 1.0))

    @property
    def size(self) -> int:
        """Number of channels C."""
        return len(self.order)

    def kept(self, width: int) -> list[int]:
        """Return the channels kept at this width, ascending."""
        return sorted(self.order[:width].tolist())

    def at_most(self, width: float) -> int:
        """Return the largest allowed width <= ``width``, or the smallest allowed width if there is none."""
        return max((w for w in self.widths if w <= width), default=self.widths[0])

    def at_least(self, width: float) -> int:
        """Return the smallest allowed width >= ``width``, or C if there is none."""
        return min((w for w in self.widths if w >= width), default=self.size)

    def width_for(self, eps: float) -> int:
        """Return the smallest allowed width whose pivot error is at most eps."""
        return self.at_least(int(np.argmax(self.pivot[1:] <= eps)) + 1)


def rank_groups(folded: FoldedNetwork, statistics: Mapping[str, GramStatistics]) -> dict[str, ChannelRanking]:
    """Rank the channels of every group in ``statistics``; channels that were removed come last."""
    return {
        name: rank_group(group, statistics[name], folded.shortcuts(name), folded.limits, folded.kept.get(name))
        for name, group in folded.groups.items()
        if name in statistics
    }


def rank_group(
    group: ChannelGroup,
    statistics: GramStatistics,
    shortcuts: Sequence[str] = (),
    limits: Limits = UNLIMITED,
    kept: Sequence[int] | None = None,
) -> ChannelRanking:
    """Rank channels by pivoting on the Zs of all consumers, stacked by rows.

    In a group that grouped convolutions read or produce, channels are selected from each convolution group in turn, so that
    all keep the same number.

    Args:
        shortcuts: Option-A shortcuts that read the group. They can only drop duplicates and dead channels: all other channels
            are ranked first and always kept.
        limits: Restrict the allowed widths; C is always allowed.
        kept: Remaining channels, if the group has been pruned (:meth:`GramStatistics.restricted`); None: all.
    """
    gram = statistics.stacked()
    remaining = np.ones(group.size, dtype=bool)
    if kept is not None:
        remaining[:] = False
        remaining[list(kept)] = True
    if group.conv_groups > 1:
        ranking = _rank_conv_groups(group, gram, remaining)
    else:
        ranking = _rank_gram(group.name, gram, remaining)
    needed = 1
    if shortcuts:
        ranking, needed = _rank_needed_first(ranking, gram, [statistics.grams[name] for name in shortcuts])
    return replace(ranking, widths=tuple(w for w in limits.widths(group) if w >= needed))


def _rank_gram(name: str, gram: np.ndarray, remaining: np.ndarray) -> ChannelRanking:
    pivoted, n = pivoted_cholesky(gram), len(gram)
    pivot = np.array([pivoted.relative_error(k) for k in range(n + 1)])
    frobenius = _tails(np.sum(pivoted.r**2, axis=1), n)
    return ChannelRanking(name, _remaining_first(pivoted, remaining), pivot, frobenius, (n,), gram)


def _remaining_first(pivoted: PivotedFactor, remaining: np.ndarray) -> np.ndarray:
    """Return the order of the pivots with removed channels, which are zero, behind remaining channels that are zero as well."""
    return np.concatenate([pivoted.order[remaining[pivoted.order]], pivoted.order[~remaining[pivoted.order]]])


def _tails(energies: np.ndarray, n: int) -> np.ndarray:
    """Return (n + 1,) square roots of the fraction of energy in rows k, k + 1, ...; ``energies`` may have fewer than n rows."""
    rows = np.zeros(n + 1)
    rows[: len(energies)] = energies
    left = np.cumsum(rows[::-1])[::-1]
    return np.sqrt(left / left[0]) if left[0] > 0 else np.zeros(n + 1)


def _rank_conv_groups(group: ChannelGroup, gram: np.ndarray, remaining: np.ndarray) -> ChannelRanking:
    """Rank each convolution group; position i * conv_groups + b of the order is the i-th selection of convolution group b."""
    size = group.size // group.conv_groups
    blocks = [
        pivoted_cholesky(gram[b * size : (b + 1) * size, b * size : (b + 1) * size]) for b in range(group.conv_groups)
    ]
    order = np.stack(
        [_remaining_first(block, remaining[b * size : (b + 1) * size]) + b * size for b, block in enumerate(blocks)],
        axis=1,
    ).ravel()
    diagonals = np.stack([block.diagonal for block in blocks], axis=1)  # (size + 1, conv_groups)
    first = diagonals[0].max()
    energies = np.zeros((size, group.conv_groups))
    for b, block in enumerate(blocks):
        energies[: block.rank, b] = np.sum(block.r**2, axis=1)
    pivot = np.append(diagonals[:size].ravel(), 0.0) / (first if first > 0 else 1.0)
    # within a round over the convolution groups, the error is the largest pivot that is left
    pivot = np.maximum.accumulate(pivot[::-1])[::-1]
    return ChannelRanking(group.name, order, pivot, _tails(energies.ravel(), group.size), (group.size,), gram)


def _rank_needed_first(
    ranking: ChannelRanking, gram: np.ndarray, at_shortcuts: Sequence[np.ndarray]
) -> tuple[ChannelRanking, int]:
    """Move the channels that no other channel can replace at a shortcut to the front: (ranking, their number).

    The errors are recomputed for the new order.
    """
    representatives = [find_representatives(one, ranking.order.tolist()) for one in at_shortcuts]
    needed = [c for c in ranking.order.tolist() if any(of[c] == c for of in representatives)]
    rest = [c for c in ranking.order.tolist() if c not in set(needed)]
    order = np.array([*needed, *rest])
    remaining = [_residual_energy(gram, order[:k], order[k:]) for k in range(len(order) + 1)]  # (n - k,) squared norms
    total, first = float(np.trace(gram)), float(np.max(np.diag(gram), initial=0.0))
    pivot = np.array([np.sqrt(r.max(initial=0.0) / first) if first > 0 else 0.0 for r in remaining])
    frobenius = np.array([np.sqrt(r.sum() / total) if total > 0 else 0.0 for r in remaining])
    return replace(ranking, order=order, pivot=pivot, frobenius=frobenius), max(1, len(needed))


def _residual_energy(gram: np.ndarray, kept: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Return the squared norm of each removed column's residual on the kept columns; rounding errors count as zero."""
    if not len(kept):
        return np.diag(gram)[removed]
    t = least_squares(gram, kept.tolist(), gram[:, removed])
    left = np.diag(gram)[removed] - np.sum(t * gram[np.ix_(kept, removed)], axis=0)
    return np.where(left > len(gram) * ROUNDOFF * np.diag(gram).max(), left, 0.0)
