"""Drawing of the README's plots: accuracy against file size, and weights before and after compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.plots import COLORS, figure
from deep_compression.plots import OTHER, POSITIONS, WEIGHTS


def accuracy_against_size(path: Path, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Draw top-1 against the file's size, with one color per network; dense networks are lines.

    networks: title -> {"dense": top-1 in percent, "points": [(bytes, top-1, text), ...]}.
    """
    with figure(path) as axes:
        for (title, found), color in zip(networks.items(), COLORS, strict=False):
            points = sorted(found["points"])
            axes.plot(
                [size / 1000 for size, *_ in points], [top1 for _, top1, _ in points], "o", color=color, label=title
            )
            for i, (size, top1, text) in enumerate(points):
                after = points[i + 1] if i + 1 < len(points) else (math.inf, top1)
                above = after[0] - size < 20_000 and after[1] < top1  # else their texts would overlap
                axes.annotate(
                    text,
                    (size / 1000, top1),
                    xytext=(0, 6 if above else -11),
                    textcoords="offset points",
                    fontsize=7,
                    ha="center",
                )
            axes.axhline(found["dense"], color=color, linewidth=1, linestyle="--", label=f"{title}, dense")
        axes.margins(x=0.12)
        axes.set_xlabel("file size (KB)")
        axes.set_ylabel("top-1 (%)")
        axes.legend(loc="lower right", fontsize=8)
    return path


def weight_grid(path: Path, layers: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the original code's histograms of several layers: dense weights as an outline, pruned and retrained ones filled.

    layers: name, edges (B + 1), dense (B counts), pruned (B counts), values (shared values, drawn as ticks), density in percent.
    """
    with figure(path, width=9.0, height=5.0, nrows=2, ncols=(len(layers) + 1) // 2, squeeze=False) as grid:
        for axes, layer in zip(grid.flat, layers, strict=False):
            edges = np.asarray(layer["edges"])
            axes.stairs(layer["dense"], edges, color=OTHER, label="dense")
            axes.stairs(layer["pruned"], edges, fill=True, color=WEIGHTS, label="pruned, retrained")
            top = 1.6 * max(layer["pruned"])  # the dense network's peak at zero is far higher
            axes.vlines(layer["values"], 0, 0.09 * top, color=POSITIONS, linewidth=1.8, zorder=3, label="shared values")
            axes.set_ylim(0, top)
            axes.set_title(f"{layer['name']}: {layer['density']:.0f} % of weights", fontsize=9)
            axes.tick_params(labelsize=8)
        for axes in grid[-1]:
            axes.set_xlabel("weight")
        for axes in grid[:, 0]:
            axes.set_ylabel("number of weights")
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return path
