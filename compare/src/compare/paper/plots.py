"""Draw the READMEs' plots of a comparison from its result file: accuracy against MACs, bytes and latency."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare.findings import count_threads
from compare.result_set import EXTENDED, ResultGroup, ResultSet, method_key, single_method_groups

GRAY = ("#444444", "#777777", "#999999", "#222222", "#666666", "#888888", "#bbbbbb")
MARKERS = "osD^vPX"
DASHES = {"paper": "-", "extended": "--", "reference": ":"}


def draw_comparison(result_set: ResultSet, file: Path) -> Path:
    """Draw four plots with one legend; a paper's variants have one color, reference methods are gray."""
    from common.plots import figure

    groups = single_method_groups(result_set)
    macs = [g for g in groups if g.first["axis"] == "macs"]
    dense = statistics.mean(float(result["baseline"]["top1"]) for result in result_set.results)
    threads = count_threads(result_set.results[0])
    panels = (
        ("after fine-tuning", macs, "macs_kept", "top1", "MACs kept (%)"),
        ("before fine-tuning", macs, "macs_kept", "pruned_top1", "MACs kept (%)"),
        (
            "of the final network",
            groups,
            "bytes_kept",
            "top1",
            "bytes kept (%, logarithmic)",
        ),  # codes are not fine-tuned
        ("after fine-tuning", macs, "latency64_kept", "top1", f"latency vs dense (%), batch 64 on {threads}"),
    )
    styles = method_styles(groups)
    with figure(file, 10, 9, nrows=2, ncols=2) as axes:
        for axis, (title, shown, x, y, label) in zip(axes.flat, panels, strict=True):
            axis.axhline(dense, color="black", linewidth=0.8, label="dense network")
            for name, style in styles.items():
                _draw_series(axis, [g for g in shown if g.label == name and g.has(x)], x, y, style)
            axis.set(title=f"top-1 (%) {title}", xlabel=label, xscale="log" if x == "bytes_kept" else "linear")
        handles = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        axes[0, 0].figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    return file


def method_styles(groups: Sequence[ResultGroup]) -> dict[str, dict[str, Any]]:
    """Return {label: arguments of a line}, in the order of the tables."""
    from common.plots import COLORS

    firsts = {g.label: g.first for g in sorted(groups, key=lambda g: method_key(g.first))}
    places: dict[str, dict[str, int]] = {}
    styles = {}
    for label, first in firsts.items():
        reference = first["variant"] == "reference"
        family = places.setdefault("reference" if reference else "paper", {})
        place = family.setdefault(first["method"].removesuffix(EXTENDED), len(family))
        colors = GRAY if reference else COLORS
        styles[label] = {
            "color": colors[place % len(colors)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[first["variant"]],
            "fillstyle": "full" if first["variant"] == "paper" else "none",
            "label": label,
        }
    return styles


def _draw_series(axis: Any, groups: Sequence[ResultGroup], x: str, y: str, style: dict[str, Any]) -> None:
    if groups:
        points = sorted((100 * g.mean(x), g.mean(y), g.std(y) or 0.0) for g in groups)
        xs, ys, errors = zip(*points, strict=True)
        axis.errorbar(xs, ys, yerr=errors, capsize=2, linewidth=1.2, **style)
