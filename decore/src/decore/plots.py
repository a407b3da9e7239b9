"""Plots of runs: keep probabilities, kept channels, the policy phase, accuracy-MACs trade-off, section 5."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, KEPT, REMOVED, figure
from common.runs import LOG, METRICS, read_json
from decore.agents import Agents
from decore.selection import logit

BINS = 45
PROBABILITIES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)  # ticks; values beyond them are clipped


def plot_probabilities(path: Path, agents: Agents) -> None:
    """Plot a histogram of the keep probabilities per layer, on a logit scale; color is the fraction of the layer's channels."""
    names = [group.name for group in agents.groups]
    low, high = logit(PROBABILITIES[0]), logit(PROBABILITIES[-1])
    by_layer = [np.clip(weights, low, high) for weights in agents.weights_by_group().values()]
    fractions = np.stack([np.histogram(w, bins=BINS, range=(low, high))[0] / len(w) for w in by_layer])
    with figure(path, width=7.0, height=max(3.0, 0.2 * len(names) + 1.2)) as axes:
        axes.grid(False)
        image = axes.imshow(fractions, aspect="auto", cmap="magma_r", vmin=0, extent=(low, high, len(names), 0))
        axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=7)
        axes.set_xticks([logit(p) for p in PROBABILITIES], [f"{p:g}" for p in PROBABILITIES], fontsize=8)
        axes.axvline(logit(0.5), color=COLORS[0], linewidth=1.0, linestyle="--")
        axes.figure.colorbar(image, ax=axes, label="fraction of the layer's channels")
        axes.set_xlabel("keep probability p (logit scale)")
        axes.set_ylabel("channel group")
        axes.set_title(f"{sum(len(w) for w in by_layer)} agents; p < 0.5 left of the dashed line")


def plot_kept_channels(path: Path, folder: Path) -> None:
    """Plot kept and removed channels per layer of a finished run as stacked bars."""
    kept = {name: tuple(map(int, entry.split("/"))) for name, entry in read_json(folder / METRICS)["kept"].items()}
    counts, sizes = np.array(list(kept.values())).T
    places = np.arange(len(kept))
    with figure(path, width=max(5.0, 0.28 * len(kept) + 1.5)) as axes:
        axes.bar(places, counts, color=KEPT, label="kept")
        axes.bar(places, sizes - counts, bottom=counts, color=REMOVED, label="removed")
        axes.set_xticks(places, list(kept), rotation=90, fontsize=7)
        axes.set_xlabel("channel group")
        axes.set_ylabel("channels")
        axes.set_title(f"{counts.sum()} of {sizes.sum()} channels kept")
        axes.legend()


CURVES = (
    ("masked_accuracy", 1, "o-", "accuracy under sampled masks (%)"),
    ("macs_kept", 100, "s-", "MACs kept at p >= 0.5 (%)"),
    ("channels_kept", 100, "^-", "channels kept at p >= 0.5 (%)"),
)


def plot_training_curves(path: Path, policy_folder: Path) -> None:
    """Plot the policy phase by epoch: accuracy under sampled masks, and MACs and channels kept at p >= 0.5."""
    with open(policy_folder / LOG, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    epochs = [int(row["epoch"]) for row in rows]
    with figure(path) as axes:
        for name, scale, style, label in CURVES:
            values = [scale * float(row[name]) for row in rows]
            axes.plot(epochs, values, style, markersize=3, label=label)
        axes.set_xlabel("epoch of the policy phase")
        axes.set_ylabel("percent")
        axes.legend()


def read_finished_runs(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read the metrics of all finished runs of a network, by descending MACs. Raises UserError if there is none."""
    found = [read_json(file) for file in sorted(folder.glob(f"{name}-*/{METRICS}"))]
    found = [metrics for metrics in found if "compressed" in metrics]
    if not found:
        raise UserError(f"{folder}: no finished run of {name} to plot; finish a run first")
    return sorted(found, key=lambda metrics: -metrics["compressed"]["macs"])


def plot_pareto_front(path: Path, folder: Path, name: str) -> None:
    """Plot top-1 against the MACs kept, before and after fine-tuning; one point per finished run."""
    runs = read_finished_runs(folder, name)
    dense = runs[0]["baseline"]
    kept = [100 * run["compressed"]["macs"] / dense["macs"] for run in runs]
    tuned, pruned = ([run[side]["top1"] for run in runs] for side in ("compressed", "after_cut"))
    with figure(path) as axes:
        axes.axhline(dense["top1"], color="#888888", linewidth=1, linestyle=":", label="dense")
        axes.plot(kept, pruned, "s--", color=COLORS[1], label="after pruning")
        axes.plot(kept, tuned, "o-", color=KEPT, label="after fine-tuning")
        for fraction, top1, run in zip(kept, tuned, runs, strict=True):
            axes.annotate(
                f"{run['penalty']:.4g}", (fraction, top1), fontsize=8, xytext=(3, 5), textcoords="offset points"
            )
        axes.set_xlabel("MACs kept (%)")
        axes.set_ylabel("top-1 (%)")
        axes.set_title(f"DECORE, {runs[0]['arch']} on {runs[0]['dataset']}; numbers are penalties")
        axes.legend()


def plot_drop_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> None:
    """Plot accuracy against the channels dropped, one line per order (section 5 of the paper)."""
    styles = {"low": ("o-", COLORS[0]), "random": ("^--", COLORS[2]), "high": ("s-", COLORS[1])}
    texts = {"low": "lowest weight first", "random": "random order", "high": "highest weight first"}
    with figure(path) as axes:
        for order, points in curves.items():
            fractions = np.array([100 * point["dropped"] for point in points])
            means = np.array([point["top1"] for point in points])
            style, color = styles[order]
            axes.plot(fractions, means, style, color=color, markersize=4, label=texts[order])
            std = np.array([point.get("std", 0.0) for point in points])
            if std.any():
                axes.fill_between(fractions, means - std, means + std, color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel("channels dropped (%)")
        axes.set_ylabel("top-1 (%)")
        axes.set_title(title)
        axes.legend()
