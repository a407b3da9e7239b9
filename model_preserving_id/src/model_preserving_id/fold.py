"""T, and T folded into the layer that reads a group: W'[:, I] = W T^T per input position, the other columns zero. (Section 3)

The layer then gives what it would give on Z_I T, from the kept channels alone; its bias stays as it is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import Convolution, weight_of
from common.models import PadShortcut
from model_preserving_id.activations import Reading
from model_preserving_id.pivoted import least_squares

SAME = 1e-5  # channels whose distance is below this share of their norm are duplicates


def solve_t(
    module: nn.Module, reading: Reading, gram: np.ndarray, kept: Sequence[int], cross: np.ndarray | None = None
) -> np.ndarray:
    """T (k, n) of one consumer, rows in the order of ``kept``: Z ~= Z[:, kept] T in least squares, the identity on ``kept``.

    With ``cross`` = Z^T Z_0 it is Z_0 ~= Z[:, kept] T: T also makes good what was lost before, and is no identity anywhere.
    A grouped convolution reads runs of channels by themselves: its T is zero between them. A T for an option-A shortcut has
    at most one entry, 1, in each column. Raises UserError where that, or a channel that several runs read, cannot be.
    """
    if isinstance(module, PadShortcut):
        return _selection(gram, kept, reading)
    products = gram if cross is None else cross
    runs = channel_runs(module, reading)
    t = np.zeros((len(kept), len(gram)))
    for run in sorted(set(runs)):
        rows = [i for i, c in enumerate(kept) if runs[c] == run]
        columns = [c for c in range(len(gram)) if runs[c] == run]
        t[np.ix_(rows, columns)] = least_squares(gram, [kept[i] for i in rows], products[:, columns])
    if cross is None:
        t[:, kept] = np.eye(len(kept))
    return t


def channel_runs(module: nn.Module, reading: Reading) -> list[int]:
    """For each channel which of the consumer's groups reads it: zeros for a plain convolution or linear layer.

    Raises UserError, naming the consumer, if a channel is read by several: no T would fit all of them.
    """
    if not isinstance(module, Convolution) or module.groups == 1:
        return [0] * reading.size
    runs = reading.positions // (module.in_channels // module.groups)  # (C, s)
    if (runs != runs[:, :1]).any():
        raise UserError(f"{reading.group}: a channel is read by several groups of {reading.consumer}; skip this group")
    return runs[:, 0].tolist()


def representatives(gram: np.ndarray, order: Sequence[int]) -> dict[int, int | None]:
    """For each channel, visited in ``order``, the first one that equals it on the data; None for a dead one. From Z^T Z."""
    dead = SAME**2 * float(np.max(np.diag(gram), initial=0.0))
    found: dict[int, int | None] = {}
    firsts: list[int] = []
    for c in order:
        norm = gram[c, c]
        if norm <= dead:
            found[c] = None
            continue
        same = [f for f in firsts if norm + gram[f, f] - 2 * gram[c, f] <= SAME**2 * max(norm, gram[f, f])]
        found[c] = same[0] if same else c
        if not same:
            firsts.append(c)
    return found


def _selection(gram: np.ndarray, kept: Sequence[int], reading: Reading) -> np.ndarray:
    """T (k, n) of zeros and ones: each removed channel is a kept one's duplicate, or dead."""
    stands_for = representatives(gram, [*kept, *(c for c in range(len(gram)) if c not in set(kept))])
    place = {c: i for i, c in enumerate(kept)}
    t = np.zeros((len(kept), len(gram)))
    for c, other in stands_for.items():
        if c in place:
            t[place[c], c] = 1.0
        elif other is not None and other not in place:
            raise UserError(
                f"{reading.group}: {reading.consumer} cannot do without channel {c}; --streams conv lets it"
            )
        elif other is not None:
            t[place[other], c] = 1.0
    return t


@torch.no_grad()
def fold(module: nn.Module, original: Tensor, reading: Reading, kept: Sequence[int], t: np.ndarray) -> None:
    """Let a consumer read only the kept channels of a group, in place; all other inputs are left as they are.

    original: its weight before anything was folded (of an option-A shortcut its ``source``); t: (k, n) of :func:`solve_t`.
    """
    if isinstance(module, PadShortcut):
        _point_elsewhere(module, original, reading, kept, t)
        return
    weight = weight_of(module)
    mix = torch.from_numpy(t).to(weight.device)
    groups, per_input = getattr(module, "groups", 1), weight.shape[1]
    runs = torch.tensor(channel_runs(module, reading))
    chosen = torch.as_tensor(kept)
    for run in runs.unique().tolist():
        rows = slice(run * weight.shape[0] // groups, (run + 1) * weight.shape[0] // groups)
        of_run, into = torch.nonzero(runs == run).flatten(), torch.nonzero(runs[chosen] == run).flatten()
        block = mix[into.to(mix.device)][:, of_run.to(mix.device)]
        for positions in reading.positions.T:
            columns = (positions[of_run] % per_input).to(weight.device)
            targets = (positions[chosen[into]] % per_input).to(weight.device)
            read = original[rows].to(weight.device).index_select(1, columns).double()
            folded = torch.tensordot(read, block, dims=([1], [1])).movedim(-1, 1)
            weight[rows].index_fill_(1, columns, 0.0).index_copy_(
                1, targets, folded.to(weight.dtype)
            )  # in place: views


def _point_elsewhere(
    module: PadShortcut, original: Tensor, reading: Reading, kept: Sequence[int], t: np.ndarray
) -> None:
    """Each output of the shortcut that a removed channel fed is fed by the kept one that stands for it, or by none."""
    feeds = np.full(reading.size + 1, -1)  # the last entry answers for source == -1
    for i, c in enumerate(kept):
        feeds[np.flatnonzero(t[i] == 1.0)] = c
    if not (reading.positions[:, 0] == torch.arange(reading.size)).all():
        raise UserError(f"{reading.group}: {reading.consumer} reads several groups; --streams off leaves it alone")
    module.source = torch.from_numpy(feeds)[original.cpu()].to(module.source.device)
