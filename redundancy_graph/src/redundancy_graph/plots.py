"""Pictures of decisions and results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, KEPT, REMOVED, figure
from common.runs import METRICS, read_json
from redundancy_graph.decision import GroupDecision
from redundancy_graph.evidence import Evidence
from redundancy_graph.graph import core_numbers, redundancy_graph
from redundancy_graph.names import to_authors


def kept_per_layer(path: Path, decisions: Sequence[GroupDecision], arch: str | None = None) -> None:
    """A bar per layer: filters kept below, filters removed on top."""
    kept = np.array([len(d.kept) for d in decisions])
    channels = np.array([d.channels for d in decisions])
    places = np.arange(len(decisions))
    with figure(path, width=max(5.0, 0.28 * len(decisions) + 1.5)) as axes:
        axes.bar(places, kept, color=KEPT, label="kept")
        axes.bar(places, channels - kept, bottom=kept, color=REMOVED, label="removed")
        axes.set_xticks(places, [to_authors(arch, d.layer) for d in decisions], rotation=90, fontsize=7)
        axes.set_ylabel("filters")
        axes.set_title(f"{kept.sum()} of {channels.sum()} filters kept")
        axes.legend()


def similarity_map(path: Path, evidence: Evidence, threshold: float, arch: str | None = None) -> None:
    """Similarities of a layer's filters, ordered by core number in the graph at the threshold, innermost core first."""
    adjacency = redundancy_graph(evidence.similarity, threshold)
    order, cores = core_order(adjacency)
    with figure(path, width=6.5, height=5.5) as axes:
        low = float(evidence.similarity.min())
        axes.grid(False)
        picture = axes.imshow(evidence.similarity[np.ix_(order, order)], cmap="magma", vmin=low, vmax=1)
        axes.figure.colorbar(picture, ax=axes, label="similarity")
        for change in np.flatnonzero(np.diff(cores[order])) + 0.5:
            axes.axhline(change, color="white", linewidth=0.6)
            axes.axvline(change, color="white", linewidth=0.6)
        inner = int((cores == cores.max()).sum())
        axes.set_title(
            f"{to_authors(arch, evidence.layer)}, threshold {threshold:g}: {inner} of {len(cores)} filters\n"
            f"in the {cores.max()}-core; lines where the core number changes",
            fontsize=9,
        )
        axes.set_xlabel("filter, by core number")


def core_order(adjacency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, core numbers): filters by falling core number, then by falling degree, then by index; both (C,)."""
    cores = core_numbers(adjacency)
    return np.lexsort((np.arange(len(cores)), -adjacency.sum(axis=1), -cores)), cores


def finished_runs(folder: Path, name: str) -> list[dict[str, Any]]:
    """Metrics of every finished run of a network in a folder, by falling MACs. Raises UserError if there is none."""
    found = [read_json(file) for file in sorted(folder.glob(f"{name}-*/{METRICS}"))]
    if not found:
        raise UserError(f"{folder}: no finished run of {name} to draw")
    return sorted(found, key=lambda metrics: -metrics["compressed"]["macs"])


def accuracy_against_macs(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Top-1 over the share of MACs kept, after fine-tuning and right after the cut; one point per finished run."""
    dense = runs[0]["baseline"]
    kept = [100 * run["compressed"]["macs"] / dense["macs"] for run in runs]
    with figure(path) as axes:
        axes.plot(
            [100, *kept],
            [dense["top1"], *(run["compressed"]["top1"] for run in runs)],
            "o-",
            color=KEPT,
            label="fine-tuned",
        )
        axes.plot(
            [100, *kept],
            [dense["top1"], *(run["after_cut"]["top1"] for run in runs)],
            "s--",
            color=COLORS[1],
            label="after the cut",
        )
        for share, run in zip(kept, runs, strict=True):
            axes.annotate(
                run["label"].rpartition("-")[2],
                (share, run["compressed"]["top1"]),
                fontsize=7,
                xytext=(3, 4),
                textcoords="offset points",
            )
        axes.set_xlabel("MACs kept, %")
        axes.set_ylabel("top-1, %")
        axes.set_title(f"{runs[0]['arch']} on {runs[0]['dataset']}")
        axes.legend()
