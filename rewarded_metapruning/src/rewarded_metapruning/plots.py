"""Plots of searches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, KEPT, figure


def plot_rewards(path: Path, searches: Sequence[Mapping[str, Any]]) -> None:
    """Plot rewards by generation (best so far, median, worst) of one search, or the mean and range of several."""
    histories = [reward_history(search) for search in searches]
    if len({len(h) for h in histories}) != 1:
        raise UserError("the searches have different numbers of generations; plot searches of equal length")
    with figure(path, height=4.0) as axes:
        places = np.arange(1, len(histories[0]) + 1)
        for key, color, label in (
            ("best_so_far", COLORS[1], "best so far"),
            ("median", KEPT, "median of the generation"),
        ):
            lines = np.array([[row[key] for row in h] for h in histories])
            axes.plot(places, lines.mean(0), "o-", color=color, markersize=4, label=label)
            if len(histories) > 1:
                axes.fill_between(places, lines.min(0), lines.max(0), color=color, alpha=0.15, linewidth=0)
        worst = np.array([[row["worst"] for row in h] for h in histories]).mean(0)
        axes.plot(places, worst, ":", color=COLORS[6], linewidth=1, label="worst of the generation")
        axes.set_xlabel("generation")
        axes.set_ylabel("reward")
        axes.set_xticks(places[:: max(1, len(places) // 10)])
        axes.set_title(format_title(searches))
        axes.legend()


def reward_history(search: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the rewards of each generation, from a result file or from the candidates of a search file."""
    if "search" in search:
        return search["search"]["history"]
    rows, best = [], float("-inf")
    for number in range(search["generations"]):
        of_this = sorted(c["reward"] for c in search["candidates"] if c["generation"] == number)
        best = max(best, of_this[-1])
        rows.append(
            {"best_so_far": best, "best": of_this[-1], "median": of_this[len(of_this) // 2], "worst": of_this[0]}
        )
    return rows


def plot_candidates(path: Path, search: Mapping[str, Any]) -> None:
    """Plot accuracy against MACs of every candidate of a search file, colored by generation; the best ten are circled."""
    rows = search["candidates"]
    with figure(path, height=4.0) as axes:
        macs, top1 = [row["macs_paper"] for row in rows], [row["top1"] for row in rows]
        points = axes.scatter(macs, top1, c=[row["generation"] + 1 for row in rows], s=14, cmap="viridis")
        axes.scatter(macs[:10], top1[:10], s=60, facecolors="none", edgecolors=COLORS[1], label="the best ten")
        axes.figure.colorbar(points, ax=axes, label="generation")
        axes.set_xlabel("MACs by the paper's rule (millions)")
        axes.set_ylabel("top-1 with generated weights (%)")
        axes.set_title(format_title([search]))
        axes.legend()


def format_title(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return network, data set and number of seeds as a title."""
    first = searches[0]
    several = f", {len(searches)} seeds" if len(searches) > 1 else ""
    return f"{first['arch']} on {first['dataset']}{several}"
