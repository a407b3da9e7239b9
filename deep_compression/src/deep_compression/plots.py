"""Plots of the paper and of the original code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from common.plots import COLORS, figure
from deep_compression.compressed import SizeReport, load_compressed
from deep_compression.size_tables import layer_rows

BINS = 200  # of a histogram, as in the original code
MANY = 40  # largest number of clusters for which a histogram's bars are colored by cluster
WEIGHTS, POSITIONS, BOOKS, OTHER = COLORS[0], COLORS[1], COLORS[2], "#a0aec0"


def draw_file(path: Path | str, report: SizeReport, folder: Path) -> list[Path]:
    """Draw all plots of a compressed file: bits per layer, bytes of the file, and a histogram per layer."""
    tensors = load_compressed(path)
    files = [bits_per_layer(folder / "bits-per-layer.png", report), bytes_of_file(folder / "bytes.png", report)]
    coded = [t for t in report.tensors if t.form in ("sparse", "dense")]
    for i, t in enumerate(coded):
        weights = tensors[t.name].double().numpy().ravel()
        values = len(np.unique(weights[weights != 0]))
        title = f"{t.name} {tuple(t.shape)}: {t.nonzero:,} of {t.elements:,} weights remain, {values} distinct values"
        files.append(weight_histogram(folder / f"weights-{i:02d}.png", weights, title))
    return files


def weight_histogram(path: Path, weights: np.ndarray, title: str) -> Path:
    """Draw a histogram of a layer's remaining weights; the bars of a quantized layer are colored by cluster."""
    remaining = weights[weights != 0]
    values, counts = np.unique(remaining, return_counts=True)
    with figure(path) as axes:
        if 0 < len(values) <= MANY:
            span = (values[-1] - values[0]) or abs(values[0]) or 1.0
            colors = [f"C{i % 10}" for i in range(len(values))]
            axes.bar(values, counts, width=0.7 * span / max(20, len(values)), color=colors)
        elif len(values):
            axes.hist(remaining, bins=BINS, color=WEIGHTS)
        axes.set_xlabel("weight")
        axes.set_ylabel("number of weights")
        axes.set_title(title, fontsize=9)
    return path


def cluster_histogram(path: Path, weights: np.ndarray, labels: np.ndarray, title: str) -> Path:
    """Draw a histogram of the remaining weights before quantization, with bars stacked by cluster."""
    groups = [weights[labels == label] for label in np.unique(labels)]
    with figure(path) as axes:
        edges = np.linspace(weights.min(), weights.max(), BINS + 1) if len(weights) else np.linspace(-1, 1, 3)
        colors = [f"C{i % 10}" for i in range(len(groups))]
        axes.hist(groups, bins=edges, stacked=True, color=colors, histtype="stepfilled")  # 2,000 bars are slow
        axes.set_xlabel("weight")
        axes.set_ylabel("number of weights")
        axes.set_title(f"{title}: {len(groups)} clusters", fontsize=9)
    return path


def bits_per_layer(path: Path, report: SizeReport) -> Path:
    """Draw the bits per stored weight and per position after entropy coding, by layer."""
    rows = layer_rows(report)
    places = np.arange(len(rows))
    with figure(path, width=max(7.0, 0.35 * len(rows) + 2)) as axes:
        axes.bar(places, [r.weight_bits_coded for r in rows], color=WEIGHTS, label="weight, coded")
        bottom = [r.weight_bits_coded for r in rows]
        axes.bar(places, [r.index_bits_coded for r in rows], bottom=bottom, color=POSITIONS, label="position, coded")
        axes.plot(places, [r.weight_bits + r.index_bits for r in rows], "k_", markersize=12, label="both before coding")
        axes.set_xticks(places, [r.name for r in rows], rotation=90, fontsize=7)
        axes.set_ylabel("bits per stored weight")
        axes.figure.legend(loc="outside upper center", ncols=3)
    return path


def bytes_of_file(path: Path, report: SizeReport) -> Path:
    """Draw the bytes of one file by category, as figure 11 of the paper."""
    sizes = {"weights": 0, "positions": 0, "codebooks": 0, "rest": 0}
    for name, size in report.by_category.items():
        sizes[
            {"payload of weights": "weights", "payload of positions": "positions", "codebooks": "codebooks"}.get(
                name, "rest"
            )
        ] += size
    with figure(path, height=2.2) as axes:
        left = 0
        for (name, size), color in zip(sizes.items(), (WEIGHTS, POSITIONS, BOOKS, OTHER), strict=True):
            axes.barh([0], [size], left=left, color=color, label=f"{name} {100 * size / report.bytes:.1f} %")
            left += size
        axes.set_yticks([])
        axes.set_xlabel(f"bytes, {report.bytes:,} in total")
        axes.figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return path


def pruning_rounds(path: Path, rounds: Sequence[Mapping[str, Any]], dense_top1: float | None = None) -> Path:
    """Draw compression (weights over remaining weights) and accuracy against the round of pruning, on two axes."""
    number = [r["round"] for r in rounds]
    with figure(path) as axes:
        axes.plot(number, [1 / max(r["density"], 1e-9) for r in rounds], "o-", color=WEIGHTS, label="compression")
        axes.set_xlabel("round of pruning")
        axes.set_ylabel("weights / remaining weights", color=WEIGHTS)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        other = axes.twinx()
        other.plot(number, [r["test_top1"] for r in rounds], "s--", color=POSITIONS, label="accuracy")
        if dense_top1 is not None:
            other.axhline(dense_top1, color=OTHER, linewidth=1, label="accuracy, dense")
        other.set_ylabel("top-1 (%)", color=POSITIONS)
        other.grid(False)
        other.spines["right"].set_visible(True)
        lines = [*axes.get_lines(), *other.get_lines()]
        axes.figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside upper center", ncols=3)
    return path


STYLES = {"kmeans": "o--", "GMM": "s-", "GMM-kmeans": "^:"}  # dashed and solid lines as in the original code


def against_clusters(
    path: Path, series: Mapping[str, Sequence[tuple[int, float, float]]], dense: float | None = None
) -> Path:
    """Draw accuracy and compression ratio against the number of clusters per layer, one line per clustering method.

    series: method -> (clusters, top-1 in percent, compression ratio).
    """
    with figure(path, height=6.0, nrows=2, sharex=True) as (upper, lower):
        for method, points in series.items():
            clusters, top1, ratios = zip(*sorted(points), strict=True)
            upper.plot(clusters, top1, STYLES[method], label=method)
            lower.plot(clusters, ratios, STYLES[method], label=method)
        if dense is not None:
            upper.axhline(dense, color=OTHER, linewidth=1, label="dense")
        upper.set_ylabel("top-1 (%)")
        lower.set_ylabel("compression ratio")
        lower.set_xlabel("clusters per layer")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        upper.legend()
    return path


def epochs(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draw training and test error against the epoch."""
    with figure(path) as axes:
        for column, style in (("train_top1", "-"), ("test_top1", "--")):
            axes.plot(
                range(1, len(rows) + 1), [100 - float(r[column]) for r in rows], style, label=column.split("_")[0]
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("error (%)")
        axes.set_title(title, fontsize=9)
        axes.legend()
    return path
