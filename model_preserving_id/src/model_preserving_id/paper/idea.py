"""The README's figure of the idea, made of a real decomposition: the work of :mod:`model_preserving_id.paper.diagrams`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.plots import COLORS, figure
from common.reporting.diagrams import INK, arrow, canvas
from model_preserving_id.decomposition import interpolative_decomposition

KEPT, GONE = COLORS[1], "#a0aec0"
ROWS, UNITS, RANK, READERS = 20, 12, 5, 6
CELL = 0.23  # of a matrix, in the drawing's units


def example() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(Z, I, T, W): outputs of a layer of 12 units that say what five of them do, but for little; and its reader's weight."""
    draw = np.random.default_rng(3)
    features = np.maximum(draw.normal(size=(ROWS, RANK)), 0)
    z = features @ np.maximum(draw.normal(size=(RANK, UNITS)), 0) + 0.05 * draw.random((ROWS, UNITS))
    kept, t = interpolative_decomposition(z, rank=RANK)
    order = np.argsort(kept)  # columns in the network's order, so that the eye finds them
    return z, kept[order], t[order], draw.normal(size=(READERS, UNITS))


def idea(path: Path) -> None:
    """Above: Z is nearly Z[:, I] T. Below: the removed units' part of the next layer goes to the kept ones."""
    z, kept, t, w = example()
    error = np.linalg.norm(z - z[:, kept] @ t) / np.linalg.norm(z)
    with figure(path, width=9.0, height=5.2) as axes:
        canvas(axes, 18, 10.4)
        top = 9.3
        _matrix(axes, z, 0.6, top, "Blues", kept)
        _matrix(axes, z[:, kept], 5.4, top, "Blues", range(RANK))
        _matrix(axes, t, 8.3, top - (ROWS - RANK) / 2 * CELL, "Oranges")
        for x, sign in ((4.4, "≈"), (7.4, "·")):
            axes.text(x, top - ROWS / 2 * CELL, sign, fontsize=20, ha="center", va="center")
        for x, name in ((1.98, "Z"), (5.98, "Z[:, I]"), (9.68, "T")):
            axes.text(x, top + 0.25, name, fontsize=12, ha="center", weight="bold")
        lines = [
            "1. Outputs of a layer on a few pictures, without labels:",
            "    a row per picture and place, a column per channel.",
            f"2. {RANK} of these {UNITS} columns say nearly all (pivoted QR);",
            f"    T makes the others of them, here with an error of {100 * error:.0f} %.",
            "3. The layer keeps the channels I.",
        ]
        axes.text(11.6, top - 0.2, "\n".join(lines), fontsize=9, va="top", color=INK, linespacing=1.6)
        _units(axes, 1.0, 3.3, kept)
        axes.text(0.6, 0.62, "the layer: kept and removed channels", fontsize=8.5, color=INK)
        low = 3.45
        _matrix(axes, w, 6.0, low, "PuOr")
        _matrix(axes, t.T, 9.4, low, "Oranges")
        _matrix(axes, w @ t.T, 12.2, low, "PuOr")
        for x, sign in ((9.08, "·"), (11.4, "=")):
            axes.text(x, low - READERS / 2 * CELL, sign, fontsize=20, ha="center", va="center")
        for x, name in ((7.38, "W"), (9.98, "Tᵀ"), (12.78, "W Tᵀ")):
            axes.text(x, low + 0.22, name, fontsize=12, ha="center", weight="bold")
        arrow(axes, (4.3, low - 0.7), (5.7, low - 0.7), "read by")
        lines = ["4. The next layer's weight W reads", "    the kept channels through T:", "    no fine-tuning."]
        axes.text(13.9, low - 0.05, "\n".join(lines), fontsize=9, va="top", color=INK, linespacing=1.6)


def _matrix(axes: Any, values: np.ndarray, x: float, top: float, colors: str, framed: Iterable[int] = ()) -> None:
    """A matrix as a grid of shades with its upper left corner at (x, top); some columns in the colour of what is kept."""
    from matplotlib.patches import Rectangle

    rows, columns = values.shape
    peak = np.abs(values).max()
    low = -peak if colors == "PuOr" else 0
    box = (x, x + columns * CELL, top - rows * CELL, top)
    axes.imshow(values, cmap=colors, vmin=low, vmax=peak, extent=box, interpolation="nearest", zorder=1)
    for i in (*framed, None):
        left, wide, color, line = (x, columns, INK, 0.8) if i is None else (x + i * CELL, 1, KEPT, 2.0)
        corner = (left, top - rows * CELL)
        axes.add_patch(
            Rectangle(corner, wide * CELL, rows * CELL, fill=False, edgecolor=color, linewidth=line, zorder=3)
        )
    axes.set(xlim=(0, 18), ylim=(0, 10.4))  # imshow has set them anew


def _units(axes: Any, x: float, top: float, kept: np.ndarray) -> None:
    """The layer's units in two rows, those that go in grey and crossed out."""
    for i in range(UNITS):
        place = (x + 0.55 * (i % 6), top - 0.45 - 1.0 * (i // 6))
        stays = i in kept
        axes.plot(*place, "o", markersize=13, color=KEPT if stays else "white", markeredgecolor=KEPT if stays else GONE)
        if not stays:
            axes.plot(*place, "x", markersize=7, color=GONE)
