"""Solve for T and fold it into a consumer: W'[:, I] = W T^T per input position, the other columns zero. (Paper, section 3)

From the kept channels alone, the consumer then computes its output for Z_I T; its bias does not change.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import Convolution, weight_of
from common.models import PadShortcut
from model_preserving_id.activations import ConsumerInput
from model_preserving_id.pivoted import least_squares

DUPLICATE_TOLERANCE = 1e-5  # channels whose distance is below this fraction of their norm are duplicates


def solve_t(
    module: nn.Module,
    consumer_input: ConsumerInput,
    gram: np.ndarray,
    kept: Sequence[int],
    cross: np.ndarray | None = None,
) -> np.ndarray:
    """Solve Z ~= Z[:, kept] T by least squares for one consumer: T (k, n), with rows in the order of ``kept``.

    T is the identity on ``kept``. For a grouped convolution, T is zero between different groups. For an option-A shortcut, each
    column of T has at most one nonzero entry, which is 1.

    Args:
        gram: Z^T Z, (n, n).
        cross: Z^T Z_0, (n, n). If given, Z_0 ~= Z[:, kept] T is solved instead: T then also compensates for the errors of earlier
            pruning, and is in general not the identity on ``kept``.

    Raises:
        UserError: If no such T exists for a shortcut, or several groups of a convolution read the same channel.
    """
    if isinstance(module, PadShortcut):
        return _selection_matrix(gram, kept, consumer_input)
    products = gram if cross is None else cross
    conv_groups = assign_conv_groups(module, consumer_input)
    t = np.zeros((len(kept), len(gram)))
    for conv_group in sorted(set(conv_groups)):
        rows = [i for i, c in enumerate(kept) if conv_groups[c] == conv_group]
        columns = [c for c in range(len(gram)) if conv_groups[c] == conv_group]
        t[np.ix_(rows, columns)] = least_squares(gram, [kept[i] for i in rows], products[:, columns])
    if cross is None:
        t[:, kept] = np.eye(len(kept))
    return t


def assign_conv_groups(module: nn.Module, consumer_input: ConsumerInput) -> list[int]:
    """Return, for each channel, the index of the convolution group that reads it: 0 for ungrouped and linear layers.

    Raises UserError, with the consumer's name, if several groups read the same channel: there is no common T.
    """
    if not isinstance(module, Convolution) or module.groups == 1:
        return [0] * consumer_input.size
    conv_groups = consumer_input.positions // (module.in_channels // module.groups)  # (C, s)
    if (conv_groups != conv_groups[:, :1]).any():
        raise UserError(
            f"{consumer_input.group}: a channel is read by several groups of {consumer_input.consumer};"
            f" use --ignored-layers {consumer_input.group}"
        )
    return conv_groups[:, 0].tolist()


def find_representatives(gram: np.ndarray, order: Sequence[int]) -> dict[int, int | None]:
    """Return, for each channel in ``order``, the first channel that equals it on the data, from Z^T Z; None for dead channels."""
    dead = DUPLICATE_TOLERANCE**2 * float(np.max(np.diag(gram), initial=0.0))
    found: dict[int, int | None] = {}
    firsts: list[int] = []
    for c in order:
        norm = gram[c, c]
        if norm <= dead:
            found[c] = None
            continue
        same = [
            f for f in firsts if norm + gram[f, f] - 2 * gram[c, f] <= DUPLICATE_TOLERANCE**2 * max(norm, gram[f, f])
        ]
        found[c] = same[0] if same else c
        if not same:
            firsts.append(c)
    return found


def _selection_matrix(gram: np.ndarray, kept: Sequence[int], consumer_input: ConsumerInput) -> np.ndarray:
    """Return T (k, n) of zeros and ones: each removed channel must be dead or a duplicate of a kept one."""
    representative = find_representatives(gram, [*kept, *(c for c in range(len(gram)) if c not in set(kept))])
    place = {c: i for i, c in enumerate(kept)}
    t = np.zeros((len(kept), len(gram)))
    for c, other in representative.items():
        if c in place:
            t[place[c], c] = 1.0
        elif other is not None and other not in place:
            raise UserError(
                f"{consumer_input.group}: {consumer_input.consumer} requires channel {c}; use --residual conv"
            )
        elif other is not None:
            t[place[other], c] = 1.0
    return t


@torch.no_grad()
def fold(
    module: nn.Module, unpruned: Tensor, consumer_input: ConsumerInput, kept: Sequence[int], t: np.ndarray
) -> None:
    """Make a consumer read only the kept channels of a group, in place; its other inputs do not change.

    Args:
        unpruned: The consumer's weight before pruning; ``source`` of an option-A shortcut.
        t: T (k, n) from :func:`solve_t`.
    """
    if isinstance(module, PadShortcut):
        _redirect_shortcut(module, unpruned, consumer_input, kept, t)
        return
    weight = weight_of(module)
    mix = torch.from_numpy(t).to(weight.device)
    groups, per_input = getattr(module, "groups", 1), weight.shape[1]
    conv_groups = torch.tensor(assign_conv_groups(module, consumer_input))
    chosen = torch.as_tensor(kept)
    for conv_group in conv_groups.unique().tolist():
        rows = slice(conv_group * weight.shape[0] // groups, (conv_group + 1) * weight.shape[0] // groups)
        of_group, into = (
            torch.nonzero(conv_groups == conv_group).flatten(),
            torch.nonzero(conv_groups[chosen] == conv_group).flatten(),
        )
        block = mix[into.to(mix.device)][:, of_group.to(mix.device)]
        for positions in consumer_input.positions.T:
            columns = (positions[of_group] % per_input).to(weight.device)
            targets = (positions[chosen[into]] % per_input).to(weight.device)
            read = unpruned[rows].to(weight.device).index_select(1, columns).double()
            folded = torch.tensordot(read, block, dims=([1], [1])).movedim(-1, 1)
            weight[rows].index_fill_(1, columns, 0.0).index_copy_(
                1, targets, folded.to(weight.dtype)
            )  # in place: views


def _redirect_shortcut(
    module: PadShortcut, unpruned: Tensor, consumer_input: ConsumerInput, kept: Sequence[int], t: np.ndarray
) -> None:
    """Replace removed channels in the sources of a shortcut by the kept channels that represent them, or by none."""
    feeds = np.full(consumer_input.size + 1, -1)  # the last entry is for source == -1
    for i, c in enumerate(kept):
        feeds[np.flatnonzero(t[i] == 1.0)] = c
    if not (consumer_input.positions[:, 0] == torch.arange(consumer_input.size)).all():
        raise UserError(f"{consumer_input.group}: {consumer_input.consumer} reads several groups; use --residual keep")
    module.source = torch.from_numpy(feeds)[unpruned.cpu()].to(module.source.device)
