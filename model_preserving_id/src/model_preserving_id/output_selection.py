"""Select channels by the outputs of the layers that read them, not by their own values (not in the paper).

ID keeps the channels from which all others can be reproduced. A consumer needs less: of 960 channels, a 1x1 convolution with 160
outputs reads 160 directions. Here channels are removed one by one, always the one whose removal changes the consumers' outputs
least, with the weights of the others re-solved by least squares: min over c of sum over consumers of ||w_c||^2 / (H^-1)_cc, with
H = Z^T Z and w_c the columns that read c. (Hassibi and Stork 1993, Optimal Brain Surgeon, for whole channels)

A channel may be silent on the calibration images and needed by others: 500 images do not contain all 1,000 classes of ImageNet. A
ridge added to H treats every channel as if it had at least that much variance, so that it costs at least the weights that read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from common.channels.resize import CONVOLUTIONS
from common.layers import weight_of
from model_preserving_id.activations import ConsumerInput, GramStatistics, groups_with_few_rows
from model_preserving_id.channel_ranking import ChannelRanking, rank_groups
from model_preserving_id.folded import FoldedNetwork

COMPACT = 0.8  # fraction of remaining channels below which the matrices are copied without the others
RIDGE = 0.1  # relative to the mean of the diagonal of Z^T Z; of 1e-6, 0.01, 0.1 and 1, the best on MobileNetV2 and other images


def rank_by_outputs(
    folded: FoldedNetwork, statistics: Mapping[str, GramStatistics]
) -> tuple[dict[str, ChannelRanking], list[str]]:
    """Rank the channels of every group, and return the names of the groups that are ranked by ID.

    These are groups that grouped convolutions or option-A shortcuts read: their channels cannot be chosen freely. Groups whose
    channels the images cannot distinguish are ranked by ID as well, and not named.
    """
    rankings, by_id = rank_groups(folded, statistics), []
    modules = dict(folded.unpruned.named_modules())
    few = groups_with_few_rows(statistics)
    for name, ranking in rankings.items():
        if name in few:
            continue
        inputs = folded.consumer_inputs([name])
        if folded.groups[name].conv_groups > 1 or not all(_reads_freely(modules[one.consumer]) for one in inputs):
            by_id.append(name)
            continue
        grams = [statistics[name].grams[one.consumer] / statistics[name].rows[one.consumer] for one in inputs]
        order, error = eliminate(grams, [_columns(modules[one.consumer], one) for one in inputs])
        rankings[name] = replace(ranking, order=order, pivot=error, frobenius=error)
    return rankings, by_id


def eliminate(
    grams: Sequence[np.ndarray], weights: Sequence[np.ndarray], ridge: float = RIDGE
) -> tuple[np.ndarray, np.ndarray]:
    """Remove all channels one by one.

    Args:
        grams: Z^T Z / rows of each consumer, (C, C).
        weights: The columns with which each consumer reads the channels, (rows, C).
        ridge: Added to the diagonals of Z^T Z, relative to their mean.

    Returns:
        order: (C,) channels; the first k remain at width k.
        error: (C + 1,) relative change of the consumers' outputs at every width, as root of the ratio of energies.
    """
    tiny = np.finfo(float).tiny
    size = len(grams[0])
    squares = [weight.T @ weight for weight in weights]
    inverses: list[np.ndarray] = []
    for gram in grams:
        added = ridge * max(float(np.trace(gram)) / size, tiny)
        inverses.append(np.linalg.inv(gram + added * np.eye(size)))
    channels, alive = np.arange(size), np.ones(size, dtype=bool)  # of the rows and columns of the matrices
    order, lost = np.empty(size, dtype=np.int64), np.zeros(size + 1)
    for width in range(size - 1, -1, -1):
        if alive.sum() < COMPACT * len(alive):
            squares, inverses = ([one[np.ix_(alive, alive)] for one in matrices] for matrices in (squares, inverses))
            channels, alive = channels[alive], alive[alive]
        each = [np.diag(s) / np.maximum(np.diag(p), tiny) for s, p in zip(squares, inverses, strict=True)]
        change = np.sum(each, axis=0)
        i = int(np.where(alive, change, np.inf).argmin())
        order[width], lost[width] = channels[i], lost[width + 1] + max(change[i], 0.0)
        alive[i] = False
        for s, p in zip(squares, inverses, strict=True):
            step = p[i] / p[i, i]  # w_j becomes w_j - step_j w_i; s is the matrix of the products of the w_j and w_k
            half = np.outer(s[i] - 0.5 * s[i, i] * step, step)
            s -= half + half.T
            p -= np.outer(p[:, i], step)
            s[i], s[:, i], p[i], p[:, i], p[i, i] = 0.0, 0.0, 0.0, 0.0, 1.0
    return order, np.sqrt(lost / lost[0]) if lost[0] > 0 else np.zeros(size + 1)


def _reads_freely(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and module.groups == 1)


def _columns(module: nn.Module, one: ConsumerInput) -> np.ndarray:
    """Return a consumer's weight as (rows, C): outputs, kernel positions, and positions within a flattened map as rows."""
    weight = weight_of(module).detach().double().cpu()
    read = weight[:, one.positions.reshape(-1)].unflatten(1, tuple(one.positions.shape))  # (outputs, C, s, *kernel)
    return torch.movedim(read, 1, -1).reshape(-1, one.size).numpy()
