"""Quantize the weights of one layer: each to the level with the least error plus price of its bits, compensated by the following weights.

Columns (inputs) are quantized one after another. The error of a column moves into the columns that follow, by the inputs' second moments
(optimal brain surgeon; Frantar et al. 2023, GPTQ, arXiv 2210.17323), and of a few levels that one is chosen for which the remaining error
plus the price of its bits is smallest (Conzelmann and Bamler 2025, CERWU, arXiv 2505.18758).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Levels = NDArray[np.int32]

DAMPING = 0.01  # added to the diagonal of second moments, as a fraction of its mean
BLOCK = 64  # columns after which the compensation reaches all columns behind them
ROUNDS = 2  # the lengths of the levels' codes are those of the round before
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
        moments: Second moments of the inputs, (groups, columns, columns).
        importance: Damage by an output's squared error, (groups, rows).
        step: Distance of two levels.
        price: Damage that is accepted to save a bit.

    Returns:
        (groups, rows, columns) int32.
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1)  # inputs with large moments first
    ordered = np.take_along_axis(np.take_along_axis(damped(moments), order[:, :, None], 1), order[:, None, :], 2)
    factor = np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)  # inverse = factor' factor
    columns = np.take_along_axis(weights, order[:, None, :], 2).transpose(2, 0, 1)  # (columns, groups, rows)
    largest = int(np.ceil(np.abs(weights).max() / step)) + 3
    bits = code_lengths(np.rint(weights / step).astype(np.int32), largest)
    levels = np.zeros(weights.shape, np.int32)
    for _ in range(ROUNDS):
        found = _quantize_columns(columns.copy(), factor, price / importance, step, bits)
        np.put_along_axis(levels, order[:, None, :], found.transpose(1, 2, 0), 2)
        bits = code_lengths(levels, largest)
    return levels


def code_lengths(levels: Levels, largest: int) -> Floats:
    """Return the bits of every level from ``-largest`` to ``largest`` with an ideal code for these levels."""
    counts = np.bincount((levels + largest).ravel(), minlength=2 * largest + 1).astype(np.float64)
    counts += SMOOTHING * (counts + counts[::-1]) / 2 + 0.05
    return -np.log2(counts / counts.sum())


def _quantize_columns(columns: Floats, factor: Floats, price: Floats, step: float, bits: Floats) -> Levels:
    """Return the levels of columns (columns, groups, rows), which are overwritten. price: (groups, rows)."""
    number, largest = len(columns), len(bits) // 2
    levels = np.zeros(columns.shape, np.int32)
    for start in range(0, number, BLOCK):
        stop = min(start + BLOCK, number)
        errors = np.empty((stop - start, *columns.shape[1:]))
        for j in range(start, stop):
            scale = factor[:, j, j][:, None]
            levels[j] = _choose(columns[j], scale, price, step, bits, largest)
            errors[j - start] = error = (columns[j] - levels[j] * step) / scale
            columns[j + 1 : stop] -= factor[:, j, j + 1 : stop].T[:, :, None] * error
        if stop < number:
            columns[stop:] -= np.matmul(
                factor[:, start:stop, stop:].transpose(0, 2, 1), errors.transpose(1, 0, 2)
            ).transpose(1, 0, 2)
    return levels


def _choose(weights: Floats, scale: Floats, price: Floats, step: float, bits: Floats, largest: int) -> Levels:
    """Return for each weight the best of the nearest level, the one next to it toward zero, and zero."""
    nearest = np.clip(np.rint(weights / step), -largest, largest).astype(np.int32)
    candidates = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
    cost = ((weights - candidates * step) / scale) ** 2 / 2 + price * bits[candidates + largest]
    return np.take_along_axis(candidates, cost.argmin(0)[None], 0)[0]
