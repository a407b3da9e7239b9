"""Pictures of runs: policies, what is kept, how training went, accuracy against MACs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, KEPT, REMOVED, figure
from common.runs import LOG, METRICS, read_json
from decore.agents import Agents
from decore.cut import logit

BINS = 45
PROBABILITIES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)  # ticks; what lies beyond is drawn at the end


def probability_histograms(path: Path, agents: Agents) -> None:
    """Histogram of the keep probabilities of each layer, a row per layer, on a logit scale; colour is the share of channels."""
    names = [group.name for group in agents.groups]
    low, high = logit(PROBABILITIES[0]), logit(PROBABILITIES[-1])
    by_layer = [np.clip(weights, low, high) for weights in agents.weights_by_name().values()]
    shares = np.stack([np.histogram(w, bins=BINS, range=(low, high))[0] / len(w) for w in by_layer])
    with figure(path, width=7.0, height=max(3.0, 0.2 * len(names) + 1.2)) as axes:
        axes.grid(False)
        picture = axes.imshow(shares, aspect="auto", cmap="magma_r", vmin=0, extent=(low, high, len(names), 0))
        axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=7)
        axes.set_xticks([logit(p) for p in PROBABILITIES], [f"{p:g}" for p in PROBABILITIES], fontsize=8)
        axes.axvline(logit(0.5), color=COLORS[0], linewidth=1.0, linestyle="--")
        axes.figure.colorbar(picture, ax=axes, label="share of the layer's channels")
        axes.set_xlabel("keep probability p, by its logit")
        axes.set_title(f"{sum(len(w) for w in by_layer)} agents; left of the line p < 0.5")


def kept_per_layer(path: Path, folder: Path) -> None:
    """A bar per layer of a finished run: channels kept below, channels removed on top."""
    kept = {name: tuple(map(int, entry.split("/"))) for name, entry in read_json(folder / METRICS)["kept"].items()}
    stays, sizes = np.array(list(kept.values())).T
    places = np.arange(len(kept))
    with figure(path, width=max(5.0, 0.28 * len(kept) + 1.5)) as axes:
        axes.bar(places, stays, color=KEPT, label="kept")
        axes.bar(places, sizes - stays, bottom=stays, color=REMOVED, label="removed")
        axes.set_xticks(places, list(kept), rotation=90, fontsize=7)
        axes.set_ylabel("channels")
        axes.set_title(f"{stays.sum()} of {sizes.sum()} channels kept")
        axes.legend()


COURSE = (
    ("masked_accuracy", 1, "o-", "accuracy under masks, %"),
    ("macs_kept", 100, "s-", "MACs kept at p >= 0.5, %"),
    ("channels_kept", 100, "^-", "channels kept at p >= 0.5, %"),
)


def course(path: Path, policy_folder: Path) -> None:
    """The policy phase by epoch: accuracy under masks against what p >= 0.5 would keep."""
    with open(policy_folder / LOG, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    epochs = [int(row["epoch"]) for row in rows]
    with figure(path) as axes:
        for name, scale, style, label in COURSE:
            values = [scale * float(row[name]) for row in rows]
            axes.plot(epochs, values, style, markersize=3, label=label)
        axes.set_xlabel("epoch of the policy phase")
        axes.legend()


def finished_runs(folder: Path, name: str) -> list[dict[str, Any]]:
    """Metrics of every finished run of a network in a folder, by falling MACs. Raises UserError if there is none."""
    found = [read_json(file) for file in sorted(folder.glob(f"{name}-*/{METRICS}"))]
    found = [metrics for metrics in found if "compressed" in metrics]
    if not found:
        raise UserError(f"{folder}: no finished run of {name} to draw")
    return sorted(found, key=lambda metrics: -metrics["compressed"]["macs"])


def front(path: Path, folder: Path, name: str) -> None:
    """Top-1 over the share of MACs kept, after fine-tuning and right after the cut; one point per finished run."""
    runs = finished_runs(folder, name)
    dense = runs[0]["baseline"]
    kept = [100 * run["compressed"]["macs"] / dense["macs"] for run in runs]
    tuned, cut = ([run[side]["top1"] for run in runs] for side in ("compressed", "after_cut"))
    with figure(path) as axes:
        axes.axhline(dense["top1"], color="#888888", linewidth=1, linestyle=":", label="dense")
        axes.plot(kept, cut, "s--", color=COLORS[1], label="after the cut")
        axes.plot(kept, tuned, "o-", color=KEPT, label="fine-tuned")
        for share, top1, run in zip(kept, tuned, runs, strict=True):
            axes.annotate(f"{run['penalty']:.4g}", (share, top1), fontsize=8, xytext=(3, 5), textcoords="offset points")
        axes.set_xlabel("MACs kept, %")
        axes.set_ylabel("top-1, %")
        axes.set_title(f"DECORE, {runs[0]['arch']} on {runs[0]['dataset']}; numbers are penalties")
        axes.legend()


def drop_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> None:
    """Accuracy over the share of channels dropped, a line per order; section 5 of the paper."""
    styles = {"low": ("o-", COLORS[0]), "random": ("^--", COLORS[2]), "high": ("s-", COLORS[1])}
    texts = {"low": "lowest weight first", "random": "random order", "high": "highest weight first"}
    with figure(path) as axes:
        for order, points in curves.items():
            shares = np.array([100 * point["dropped"] for point in points])
            means = np.array([point["top1"] for point in points])
            style, color = styles[order]
            axes.plot(shares, means, style, color=color, markersize=4, label=texts[order])
            spread = np.array([point.get("deviation", 0.0) for point in points])
            if spread.any():
                axes.fill_between(shares, means - spread, means + spread, color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel("channels dropped, %")
        axes.set_ylabel("top-1, %")
        axes.set_title(title)
        axes.legend()
