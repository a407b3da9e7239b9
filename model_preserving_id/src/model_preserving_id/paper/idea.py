"""The figure of :mod:`model_preserving_id.paper.diagrams`, which shows a computed decomposition of a small example."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.plots import COLORS, figure
from common.reporting.diagrams import INK, draw_arrow, prepare_canvas
from model_preserving_id.decomposition import interpolative_decomposition

KEPT, REMOVED = COLORS[1], "#a0aec0"
ROWS, UNITS, RANK, OUTPUTS = 20, 12, 5, 6
CELL = 0.23  # size of a matrix entry in the figure


def example() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (Z, I, T, W): the outputs of a layer of 12 units, nearly of rank 5, and the next layer's weight."""
    rng = np.random.default_rng(3)
    features = np.maximum(rng.normal(size=(ROWS, RANK)), 0)
    z = features @ np.maximum(rng.normal(size=(RANK, UNITS)), 0) + 0.05 * rng.random((ROWS, UNITS))
    kept, t = interpolative_decomposition(z, rank=RANK)
    order = np.argsort(kept)  # columns in the network's order
    return z, kept[order], t[order], rng.normal(size=(OUTPUTS, UNITS))


def draw_idea(path: Path) -> None:
    """Draw Z ~= Z[:, I] T (top), and how T is folded into the next layer's weight (bottom)."""
    z, kept, t, w = example()
    error = np.linalg.norm(z - z[:, kept] @ t) / np.linalg.norm(z)
    with figure(path, width=9.0, height=5.2) as axes:
        prepare_canvas(axes, 18, 10.4)
        top = 9.3
        _draw_matrix(axes, z, 0.6, top, "Blues", kept)
        _draw_matrix(axes, z[:, kept], 5.4, top, "Blues", range(RANK))
        _draw_matrix(axes, t, 8.3, top - (ROWS - RANK) / 2 * CELL, "Oranges")
        for x, sign in ((4.4, "≈"), (7.4, "·")):
            axes.text(x, top - ROWS / 2 * CELL, sign, fontsize=20, ha="center", va="center")
        for x, name in ((1.98, "Z"), (5.98, "Z[:, I]"), (9.68, "T")):
            axes.text(x, top + 0.25, name, fontsize=12, ha="center", weight="bold")
        lines = [
            "1. Outputs of a layer on a few unlabeled images:",
            "    a row per image and pixel, a column per channel.",
            f"2. Pivoted QR selects {RANK} of the {UNITS} columns; T reconstructs",
            f"    the others from them, here with an error of {100 * error:.0f} %.",
            "3. The layer keeps the channels I.",
        ]
        axes.text(11.6, top - 0.2, "\n".join(lines), fontsize=9, va="top", color=INK, linespacing=1.6)
        _draw_units(axes, 1.0, 3.3, kept)
        axes.text(0.6, 0.62, "the layer: kept and removed channels", fontsize=8.5, color=INK)
        low = 3.45
        _draw_matrix(axes, w, 6.0, low, "PuOr")
        _draw_matrix(axes, t.T, 9.4, low, "Oranges")
        _draw_matrix(axes, w @ t.T, 12.2, low, "PuOr")
        for x, sign in ((9.08, "·"), (11.4, "=")):
            axes.text(x, low - OUTPUTS / 2 * CELL, sign, fontsize=20, ha="center", va="center")
        for x, name in ((7.38, "W"), (9.98, "Tᵀ"), (12.78, "W Tᵀ")):
            axes.text(x, low + 0.22, name, fontsize=12, ha="center", weight="bold")
        draw_arrow(axes, (4.3, low - 0.7), (5.7, low - 0.7), "read by")
        lines = ["4. T is folded into the next", "    layer's weight W,", "    without fine-tuning."]
        axes.text(13.9, low - 0.05, "\n".join(lines), fontsize=9, va="top", color=INK, linespacing=1.6)


def _draw_matrix(axes: Any, values: np.ndarray, x: float, top: float, colors: str, framed: Iterable[int] = ()) -> None:
    """Draw a matrix as a grid of shades with its upper left corner at (x, top); ``framed`` columns are marked as kept."""
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
    axes.set(xlim=(0, 18), ylim=(0, 10.4))  # imshow has changed them


def _draw_units(axes: Any, x: float, top: float, kept: np.ndarray) -> None:
    """Draw the layer's units in two rows; removed units are gray and crossed out."""
    for i in range(UNITS):
        position = (x + 0.55 * (i % 6), top - 0.45 - 1.0 * (i // 6))
        is_kept = i in kept
        axes.plot(
            *position,
            "o",
            markersize=13,
            color=KEPT if is_kept else "white",
            markeredgecolor=KEPT if is_kept else REMOVED,
        )
        if not is_kept:
            axes.plot(*position, "x", markersize=7, color=REMOVED)
