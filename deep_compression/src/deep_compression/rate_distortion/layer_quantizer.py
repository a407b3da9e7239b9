"""Quantize the weights of one layer: each to the level with the least damage plus price of its bits, compensated by the following weights.

The damage of errors E (outputs, inputs) is trace(G E H E') / 2, with the second moments H of the inputs and the importance G of the outputs: the
Kronecker-factored Fisher information (Martens and Grosse 2015, arXiv 1503.05671). The error of a weight moves into the weights of later inputs
(optimal brain surgeon; Frantar et al. 2023, GPTQ, arXiv 2210.17323) and of later outputs (Tseng et al. 2025, YAQA, arXiv 2505.22988), and of a few levels
that one is chosen for which the remaining damage plus the price of its bits is smallest (Conzelmann and Bamler 2025, CERWU, arXiv 2505.18758).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Levels = NDArray[np.int32]

DAMPING = 0.01  # added to the diagonal of second moments, as a fraction of its mean
BLOCK = 64  # inputs after which the compensation reaches all inputs behind them
SMOOTHING = 0.3  # of the frequencies of a level and its negative


def damped(moments: Floats) -> Floats:
    """Return second moments (..., n, n) with a larger diagonal, positive definite."""
    size = moments.shape[-1]
    mean = np.trace(moments, axis1=-2, axis2=-1) / size
    return moments + (DAMPING * mean + 1e-12)[..., None, None] * np.eye(size)


def quantize_layer(weights: Floats, moments: Floats, importance: Floats, step: float, price: float) -> Levels:
    """Return levels with which ``levels * step`` replaces the weights.

    Args:
        weights: (groups, rows, columns): outputs and inputs of each convolution group.
        moments: Second moments H of the inputs, (groups, columns, columns).
        importance: Importance G of the outputs, positive definite, (groups, rows, rows).
        step: Distance of two levels.
        price: Damage that is accepted to save a bit.

    Returns:
        (groups, rows, columns) int32.
    """
    outputs, inputs = _largest_first(importance), _largest_first(moments)
    ordered = _take(weights, outputs, inputs)
    by_output = _factors(_take(importance, outputs, outputs))
    by_input = _factors(_take(damped(moments), inputs, inputs))
    damage = by_output[1][:, :, None] * by_input[1][:, None, :]
    largest = int(np.ceil(np.abs(weights).max() / step)) + 3
    bits = code_lengths(np.rint(ordered / step).astype(np.int32), largest)
    levels = _compensated_in_rows(ordered, by_input[0], damage, step, price, bits)
    bits = code_lengths(levels, largest)
    levels = _compensated(ordered, by_output[0], by_input[0], damage, step, price, bits)
    return _take(levels, np.argsort(outputs, 1), np.argsort(inputs, 1))


def code_lengths(levels: Levels, largest: int) -> Floats:
    """Return the bits of every level from ``-largest`` to ``largest`` with an ideal code for these levels."""
    counts = np.bincount((levels + largest).ravel(), minlength=2 * largest + 1).astype(np.float64)
    counts += SMOOTHING * (counts + counts[::-1]) / 2 + 0.05
    return -np.log2(counts / counts.sum())


def _largest_first(matrices: Floats) -> NDArray[np.int64]:
    return np.argsort(-np.diagonal(matrices, axis1=1, axis2=2), axis=1, kind="stable")


def _take(matrices: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return matrices (groups, rows, columns) in another order of rows and columns, which may differ between groups."""
    return np.take_along_axis(np.take_along_axis(matrices, rows[:, :, None], 1), columns[:, None, :], 2)


def _factors(matrices: Floats) -> tuple[Floats, Floats]:
    """Return A' - 1 (groups, n, n), strictly lower triangular, and d (groups, n): a matrix is A diag(d) A', A unit upper triangular."""
    upper = np.linalg.cholesky(matrices[:, ::-1, ::-1])[:, ::-1, ::-1]
    scales = np.diagonal(upper, axis1=1, axis2=2)
    unit = upper / scales[:, None, :]
    return np.ascontiguousarray(unit.transpose(0, 2, 1)) - np.eye(unit.shape[1]), scales**2


def _compensated_in_rows(
    weights: Floats, inputs: Floats, damage: Floats, step: float, price: float, bits: Floats
) -> Levels:
    """Quantize weights as :func:`_compensated` does, without compensation between outputs: much faster, with similar frequencies of levels."""
    levels, errors = np.zeros(weights.shape, np.int32), np.zeros(weights.shape)
    for j in range(weights.shape[2]):
        row = (errors[:, :, :j] @ inputs[:, j, :j, None])[:, :, 0]
        levels[:, :, j] = level = _choose(weights[:, :, j] + row, damage[:, :, j], step, price, bits)
        errors[:, :, j] = weights[:, :, j] - level * step
    return levels


def _compensated(
    weights: Floats, outputs: Floats, inputs: Floats, damage: Floats, step: float, price: float, bits: Floats
) -> Levels:
    """Quantize weights (groups, rows, columns) one after another; those on an antidiagonal of a block do not depend on each other.

    With H = A D A' and G = B S B', the damage is the sum of D and S times the squared entries of B' E A. An entry of it is the sum of the weight's
    own error and of earlier errors in its row, its column, and both.

    Args:
        outputs: B' - 1. inputs: A' - 1. damage: Products of S and D, one for each weight.
    """
    _, rows, columns = weights.shape
    levels, errors = np.zeros(weights.shape, np.int32), np.zeros(weights.shape)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        within = inputs[:, start:stop, start:stop]
        earlier = errors[:, :, :start] @ inputs[:, start:stop, :start].transpose(0, 2, 1)
        wanted, costs = weights[:, :, start:stop], damage[:, :, start:stop]
        found, left = np.zeros(wanted.shape, np.int32), np.zeros(wanted.shape)
        by_row = np.zeros(wanted.shape)  # entries of E A
        for diagonal in range(rows + stop - start - 1):
            i = np.arange(max(0, diagonal - (stop - start) + 1), min(rows, diagonal + 1))
            j = diagonal - i
            row = earlier[:, i, j] + np.einsum("gkc,gkc->gk", left[:, i], within[:, j])
            column = np.einsum("gkr,grk->gk", outputs[:, i], by_row[:, :, j])
            level = _choose(wanted[:, i, j] + row + column, costs[:, i, j], step, price, bits)
            found[:, i, j] = level
            left[:, i, j] = error = wanted[:, i, j] - level * step
            by_row[:, i, j] = error + row
        levels[:, :, start:stop], errors[:, :, start:stop] = found, left
    return levels


def _choose(weights: Floats, damage: Floats, step: float, price: float, bits: Floats) -> Levels:
    """Return for each weight the best of the nearest level, the one next to it toward zero, and zero. damage: of a squared error of one."""
    largest = len(bits) // 2
    scaled, damage = weights / step, damage * (step**2 / 2)
    best = np.clip(np.rint(scaled), -largest, largest).astype(np.int32)
    cost = (scaled - best) ** 2 * damage + price * bits[best + largest]
    for other in (best - np.sign(best), np.zeros_like(best)):
        others = (scaled - other) ** 2 * damage + price * bits[other + largest]
        best = np.where(others < cost, other, best)
        cost = np.minimum(others, cost)
    return best
