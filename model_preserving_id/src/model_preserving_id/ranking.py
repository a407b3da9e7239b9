"""In which order the channels of a group are chosen, and what each width leaves out: everything that widths are decided on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.channels import ChannelGroup
from common.trained_model import Limits
from model_preserving_id.activations import Statistics
from model_preserving_id.fold import representatives
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.pivoted import ROUNDOFF, Pivoted, least_squares, pivoted_cholesky

UNLIMITED = Limits()


@dataclass(frozen=True, eq=False)
class Ranking:
    """The nested index sets of one group.

    order      (C,) channels in order of choice: the first k stay at width k
    pivot      (C + 1,) |r_k+1,k+1| / |r_11| at every width k, the paper's error
    frobenius  (C + 1,) ||Z - Z_I T||_F / ||Z||_F at every width k
    widths     the widths that are allowed, ascending; the last is C
    """

    group: str
    order: np.ndarray
    pivot: np.ndarray
    frobenius: np.ndarray
    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.order)

    def kept(self, width: int) -> list[int]:
        """The channels that stay at this width, ascending."""
        return sorted(self.order[:width].tolist())

    def at_most(self, width: float) -> int:
        """The largest allowed width that is not above ``width``, or the smallest allowed one."""
        return max((w for w in self.widths if w <= width), default=self.widths[0])

    def at_least(self, width: float) -> int:
        """The smallest allowed width that is not below ``width``, or all channels."""
        return min((w for w in self.widths if w >= width), default=self.size)

    def width_for(self, eps: float) -> int:
        """The smallest allowed width whose pivot error is at most eps."""
        return self.at_least(int(np.argmax(self.pivot[1:] <= eps)) + 1)


def rank_groups(folded: FoldedNetwork, statistics: Mapping[str, Statistics]) -> dict[str, Ranking]:
    """The nested index sets of every group that there are statistics of."""
    return {
        name: rank_group(group, statistics[name], folded.shortcuts(name), folded.limits)
        for name, group in folded.groups.items()
        if name in statistics
    }


def rank_group(
    group: ChannelGroup, statistics: Statistics, shortcuts: Sequence[str] = (), limits: Limits = UNLIMITED
) -> Ranking:
    """Choose by pivoting on the Zs of all consumers stacked by rows.

    A group that grouped layers tie into equal runs is chosen from run by run, so that each keeps as many. ``shortcuts``:
    consumers that can only drop duplicates and dead channels (option A): all others are chosen first, and stay.
    limits: allowed widths are those within them, and C.
    """
    gram = statistics.stacked()
    if group.conv_groups > 1:
        ranking = _interleaved(group, gram)
    else:
        ranking = _ranked(group.name, pivoted_cholesky(gram))
    needed = 1
    if shortcuts:
        ranking, needed = _needed_first(ranking, gram, [statistics.grams[name] for name in shortcuts])
    step = math.lcm(group.conv_groups, limits.round_to)
    steps = {w for w in range(step, group.size, step) if w >= max(needed, limits.least(group))}
    return replace(ranking, widths=(*sorted(steps), group.size))


def _ranked(name: str, pivoted: Pivoted) -> Ranking:
    n = len(pivoted.order)
    pivot = np.array([pivoted.relative_error(k) for k in range(n + 1)])
    return Ranking(name, pivoted.order, pivot, _tails(np.sum(pivoted.r**2, axis=1), n), (n,))


def _tails(energies: np.ndarray, n: int) -> np.ndarray:
    """(n + 1,) sqrt of the share of energy in rows k, k + 1, ...; ``energies`` may have fewer rows than n."""
    rows = np.zeros(n + 1)
    rows[: len(energies)] = energies
    left = np.cumsum(rows[::-1])[::-1]
    return np.sqrt(left / left[0]) if left[0] > 0 else np.zeros(n + 1)


def _interleaved(group: ChannelGroup, gram: np.ndarray) -> Ranking:
    """Run by run: place i * blocks + b of the order is the i-th choice in run b."""
    size = group.size // group.conv_groups
    runs = [
        pivoted_cholesky(gram[b * size : (b + 1) * size, b * size : (b + 1) * size]) for b in range(group.conv_groups)
    ]
    order = np.stack([run.order + b * size for b, run in enumerate(runs)], axis=1).ravel()
    diagonals = np.stack([run.diagonal for run in runs], axis=1)  # (size + 1, blocks)
    first = diagonals[0].max()
    energies = np.zeros((size, group.conv_groups))
    for b, run in enumerate(runs):
        energies[: run.rank, b] = np.sum(run.r**2, axis=1)
    pivot = np.append(diagonals[:size].ravel(), 0.0) / (first if first > 0 else 1.0)
    # between two whole rounds of choices the largest pivot that is left counts
    pivot = np.maximum.accumulate(pivot[::-1])[::-1]
    return Ranking(group.name, order, pivot, _tails(energies.ravel(), group.size), (group.size,))


def _needed_first(ranking: Ranking, gram: np.ndarray, at_shortcuts: Sequence[np.ndarray]) -> tuple[Ranking, int]:
    """Channels that no other stands for at a shortcut come first; (ranking, how many they are).

    Errors are those of the new order.
    """
    stand_ins = [representatives(one, ranking.order.tolist()) for one in at_shortcuts]
    needed = [c for c in ranking.order.tolist() if any(of[c] == c for of in stand_ins)]
    rest = [c for c in ranking.order.tolist() if c not in set(needed)]
    order = np.array([*needed, *rest])
    remaining = [_residual(gram, order[:k], order[k:]) for k in range(len(order) + 1)]  # (n - k,) squared norms
    total, first = float(np.trace(gram)), float(np.max(np.diag(gram), initial=0.0))
    pivot = np.array([np.sqrt(r.max(initial=0.0) / first) if first > 0 else 0.0 for r in remaining])
    frobenius = np.array([np.sqrt(r.sum() / total) if total > 0 else 0.0 for r in remaining])
    return replace(ranking, order=order, pivot=pivot, frobenius=frobenius), max(1, len(needed))


def _residual(gram: np.ndarray, kept: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Squared norm of what the kept columns leave of each removed one; rounding is zero."""
    if not len(kept):
        return np.diag(gram)[removed]
    t = least_squares(gram, kept.tolist(), gram[:, removed])
    left = np.diag(gram)[removed] - np.sum(t * gram[np.ix_(kept, removed)], axis=0)
    return np.where(left > len(gram) * ROUNDOFF * np.diag(gram).max(), left, 0.0)
