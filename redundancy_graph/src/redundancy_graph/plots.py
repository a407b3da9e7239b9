"""Plots of decisions and results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, KEPT, REMOVED, figure
from common.runs import METRICS, read_json
from redundancy_graph.decision import GroupDecision
from redundancy_graph.graph import core_numbers, redundancy_graph
from redundancy_graph.group_similarity import GroupSimilarity
from redundancy_graph.layer_names import to_original


def plot_kept_filters(path: Path, decisions: Sequence[GroupDecision], arch: str | None = None) -> None:
    """Plot kept and removed filters per layer as stacked bars."""
    kept = np.array([len(d.kept) for d in decisions])
    channels = np.array([d.channels for d in decisions])
    places = np.arange(len(decisions))
    with figure(path, width=max(5.0, 0.28 * len(decisions) + 1.5)) as axes:
        axes.bar(places, kept, color=KEPT, label="kept")
        axes.bar(places, channels - kept, bottom=kept, color=REMOVED, label="removed")
        axes.set_xticks(places, [to_original(arch, d.layer) for d in decisions], rotation=90, fontsize=7)
        axes.set_ylabel("filters")
        axes.set_title(f"{kept.sum()} of {channels.sum()} filters kept")
        axes.legend()


def plot_similarity(path: Path, similarity: GroupSimilarity, threshold: float, arch: str | None = None) -> None:
    """Plot the similarities of a layer's filters as a heat map, ordered by core number, innermost core first."""
    adjacency = redundancy_graph(similarity.similarity, threshold)
    order, cores = core_order(adjacency)
    with figure(path, width=6.5, height=5.5) as axes:
        low = float(similarity.similarity.min())
        axes.grid(False)
        image = axes.imshow(similarity.similarity[np.ix_(order, order)], cmap="magma", vmin=low, vmax=1)
        axes.figure.colorbar(image, ax=axes, label="similarity")
        for change in np.flatnonzero(np.diff(cores[order])) + 0.5:
            axes.axhline(change, color="white", linewidth=0.6)
            axes.axvline(change, color="white", linewidth=0.6)
        inner = int((cores == cores.max()).sum())
        axes.set_title(
            f"{to_original(arch, similarity.layer)}, threshold {threshold:g}: {inner} of {len(cores)} filters\n"
            f"in the {cores.max()}-core; lines where the core number changes",
            fontsize=9,
        )
        axes.set_xlabel("filter, ordered by core number")


def core_order(adjacency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (order, core numbers), both (C,): filters by descending core number, then descending degree, then index."""
    cores = core_numbers(adjacency)
    return np.lexsort((np.arange(len(cores)), -adjacency.sum(axis=1), -cores)), cores


def read_finished_runs(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read the metrics of all finished runs of a network, by descending MACs. Raises UserError if there is none."""
    found = [read_json(file) for file in sorted(folder.glob(f"{name}-*/{METRICS}"))]
    if not found:
        raise UserError(f"{folder}: no finished run of {name} to plot; finish a run first")
    return sorted(found, key=lambda metrics: -metrics["compressed"]["macs"])


def plot_accuracy_against_macs(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Plot top-1 against the MACs kept, before and after fine-tuning; one point per finished run."""
    dense = runs[0]["baseline"]
    kept = [100 * run["compressed"]["macs"] / dense["macs"] for run in runs]
    with figure(path) as axes:
        axes.plot(
            [100, *kept],
            [dense["top1"], *(run["compressed"]["top1"] for run in runs)],
            "o-",
            color=KEPT,
            label="after fine-tuning",
        )
        axes.plot(
            [100, *kept],
            [dense["top1"], *(run["after_cut"]["top1"] for run in runs)],
            "s--",
            color=COLORS[1],
            label="after pruning",
        )
        for fraction, run in zip(kept, runs, strict=True):
            axes.annotate(
                run["label"].rpartition("-")[2],
                (fraction, run["compressed"]["top1"]),
                fontsize=7,
                xytext=(3, 4),
                textcoords="offset points",
            )
        axes.set_xlabel("MACs kept (%)")
        axes.set_ylabel("top-1 (%)")
        axes.set_title(f"{runs[0]['arch']} on {runs[0]['dataset']}")
        axes.legend()
