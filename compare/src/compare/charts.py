"""Altair specifications of the plots of a comparison: report.html and the figures of the READMEs are drawn from them.

altair is imported when a plot is made: it takes half a second.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from compare.findings import any_finetuned, count_threads
from compare.result_set import EXTENDED, ResultGroup, ResultSet, method_key, single_method_groups
from compare.values import (
    DENSE,
    SMALL_STD,
    dense_sides,
    dense_top1,
    format_accuracy,
    format_percent,
    format_target,
    top1_cell,
)

if TYPE_CHECKING:
    import altair

COLORS = {  # of a paper's variants, by the method's name; every color has a contrast of 3 with white and with the dark page
    "decore": "#0072b2",
    "deep_compression": "#d55e00",
    "model_preserving_id": "#009e73",
    "redundancy_graph": "#cc79a7",
    "rewarded_metapruning": "#a57c00",
    "l1_norm": "#757575",
    "random": "#949494",
    "torch_pruning": "#7d8597",
}
OTHER_COLORS = ("#8250df", "#2b8a9e", "#bf3989", "#6f8000")  # of other papers' methods
OTHER_GRAY = MIDDLE_GRAY = "#7a828c"  # of other reference methods; of the dense network
SHAPES = {  # paths in a square from -1 to 1
    "circle": "M-.9,0A.9,.9,0,1,1,.9,0A.9,.9,0,1,1,-.9,0Z",
    "square": "M-.8,-.8H.8V.8H-.8Z",
    "diamond": "M0,-1.1L1,0L0,1.1L-1,0Z",
    "triangle": "M0,-1L1,.8H-1Z",
    "down": "M0,1L1,-.8H-1Z",
    "pentagon": "M0,-1L1,-.25L.6,.9H-.6L-1,-.25Z",
    "cross": "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "star": "M0,-1.1L.3,-.35L1.1,-.3L.45,.2L.7,1L0,.55L-.7,1L-.45,.2L-1.1,-.3L-.3,-.35Z",
}
DASHES = {"paper": [1, 0], "extended": [5, 3], "reference": [2, 3]}
HIGHLIGHT = "highlight"  # parameter: the only method that is not faded; empty for all
NEAR = 0.015  # of an axis: points at this distance or less hide each other

INK, SOFT, GRID = "#1b1f24", "#57606a", "#e4e8ec"  # text, axes, grid; on a dark page, page.css replaces these and white


@dataclass(frozen=True)
class Style:
    """Appearance of a method in every plot: variants of a paper have one color; paper, extended and reference differ in fill and dashes."""

    color: str
    shape: str
    variant: str

    @property
    def path(self) -> str:
        return SHAPES[self.shape]

    @property
    def filled(self) -> bool:
        return self.variant == "paper"


@dataclass(frozen=True)
class Plot:
    """A plot: values against costs.

    Attributes:
        x: Metric on the x axis, a fraction of the dense network's.
        y: Metric on the y axis, in percent.
        x_range: Range of the x axis.
        y_range: Range of the y axis.
        dense: The dense network's y.
        rows: One per group: its place, its error bars, and the texts that are shown when it is pointed at.
    """

    title: str
    x_title: str
    y_title: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    dense: float
    dense_text: str
    is_logarithmic: bool
    rows: list[dict[str, Any]] = field(compare=False)


def method_styles(groups: Sequence[ResultGroup]) -> dict[str, Style]:
    """Return {label: style}, in the order of the tables. The color of a method that COLORS has does not depend on the others."""
    firsts = {g.label: g.first for g in sorted(groups, key=lambda g: method_key(g.first))}
    others: dict[str, str] = {}
    families: dict[str, str] = {}
    styles, references = {}, 0
    for label, first in firsts.items():
        family, variant = first["method"].removesuffix(EXTENDED), first["variant"]
        color = next((COLORS[name] for name in COLORS if family == name or family.startswith(f"{name}_")), None)
        if variant == "reference":
            shape = list(SHAPES)[references % len(SHAPES)]
            references += 1
        else:
            shape = families.setdefault(family, list(SHAPES)[len(families) % len(SHAPES)])
        if color is None:
            color = OTHER_GRAY if variant == "reference" else others.setdefault(family, OTHER_COLORS[len(others) % 4])
        styles[label] = Style(color, shape, variant)
    return styles


def comparison_plots(result_set: ResultSet) -> list[Plot]:
    """Return the plots of a comparison."""
    groups = single_method_groups(result_set)
    macs = [g for g in groups if g.first["axis"] in ("macs", "latency")]  # the methods that remove channels
    timed = [g for g in macs if g.has("latency64_kept")]
    top1 = (
        "top-1 (%)",
        statistics.mean(float(side["top1"]) for side in dense_sides(result_set)),
        dense_top1(result_set),
    )
    kept = ("macs_kept", "MACs kept (%)")
    plots = []
    if any_finetuned(macs):
        plots.append(_plot("Accuracy against MACs, after fine-tuning", macs, kept, "top1", top1))
        plots.append(_plot("Accuracy against MACs, before fine-tuning", macs, kept, "pruned_top1", top1))
    elif macs:
        plots.append(_plot("Accuracy against MACs, no fine-tuning", macs, kept, "top1", top1))
        agreement = ("agreement (%)", 100.0, "100")
        plots.append(_plot("Agreement with the dense network", macs, kept, "agreement", agreement))
    if groups:
        size = ("bytes_kept", "bytes kept (%, logarithmic)")
        plots.append(_plot("Accuracy against file size", groups, size, "top1", top1))
    if timed:
        title = f"Accuracy against latency, batch 64 on {count_threads(result_set.results[0])}"
        plots.append(_plot(title, timed, ("latency64_kept", "latency vs dense (%)"), "top1", top1))
    return plots


def _plot(title: str, groups: Sequence[ResultGroup], x: tuple[str, str], y: str, dense: tuple[str, float, str]) -> Plot:
    """Return a plot. x: metric and title; dense: title of the y axis, the dense network's y and its text."""
    rows = [_point(g, x[0], y) for g in groups]
    is_logarithmic = x[0] == "bytes_kept"
    across = [row[key] for row in rows for key in ("left", "right")]
    ends = (min(across) / 1.15, max(across) * 1.15) if is_logarithmic else axis_range(across, 1.0)
    heights = axis_range([dense[1], *(row[key] for row in rows for key in ("low", "high"))], 1.0, 100.0)
    scale = math.log if is_logarithmic else float
    for row in rows:
        near = [
            one["method"]
            for one in rows
            if one is not row
            and abs(scale(one["x"]) - scale(row["x"])) <= NEAR * (scale(ends[1]) - scale(ends[0]))
            and abs(one["y"] - row["y"]) <= NEAR * (heights[1] - heights[0])
        ]
        row["near"] = ", ".join(near)
    return Plot(title, x[1], dense[0], ends, heights, dense[1], dense[2], is_logarithmic, rows)


def _point(g: ResultGroup, x: str, y: str) -> dict[str, Any]:
    across, height = 100 * g.mean(x), g.mean(y)
    dx, dy = 100 * (g.std(x) or 0.0), g.noise(y) or 0.0
    dx = dx if dx > SMALL_STD * across else 0.0
    value = f"{format_accuracy(g, y)} %" if y == "agreement" else f"{top1_cell(g, y)} %"
    return {
        "method": g.label,
        "filled": g.first["variant"] == "paper",
        "target": format_target(g),
        "x": across,
        "y": height,
        "low": max(0.0, height - dy),
        "high": min(100.0, height + dy),
        "left": max(across / 2, across - dx),
        "right": across + dx,
        "value": value,
        "cost": format_percent(g.mean(x)),
        "text": f"{g.label}, {format_target(g)}: {value}",
        "command": commands(g),
    }


def commands(group: ResultGroup) -> str:
    """Return the commands that compute a group's results again, one line per seed."""
    lines = dict.fromkeys(f"{result['command']} --out runs/reproduced" for result in group.results)
    return "\n".join(lines)


def axis_range(values: Sequence[float], min_width: float, limit: float = math.inf) -> tuple[float, float]:
    """Return a range in [0, limit] that contains the values with a margin and is at least ``min_width`` wide."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), (min_width - (high - low)) / 2)
    return max(0.0, low - margin), min(limit, high + margin)


def draw(
    plot: Plot, styles: Mapping[str, Style], data: str, *, fixed: bool = False
) -> altair.LayerChart | altair.FacetChart:
    """Return the Altair chart of a plot, without a size.

    Args:
        data: Name of the data set with the plot's rows.
        fixed: Whether it has no parameters, as in a figure without JavaScript.
    """
    import altair as alt

    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if plot.x_range[0] <= tick <= plot.x_range[1]]
    scale: dict[str, Any] = {"type": "log"} if plot.is_logarithmic else {"zero": False}
    scale |= {"domain": list(plot.x_range), "nice": False}
    axis = alt.Axis(values=ticks, format="~g") if len(ticks) > 1 and plot.is_logarithmic else alt.Axis(tickCount=6)
    x = alt.X("x:Q", title=plot.x_title, scale=alt.Scale(**scale), axis=axis)
    height = alt.Scale(domain=list(plot.y_range), nice=False, zero=False)
    y = alt.Y("y:Q", title=plot.y_title, scale=height, axis=alt.Axis(tickCount=6))
    look = _channels(styles)
    fade = f"!{HIGHLIGHT} || {HIGHLIGHT} == datum.method"
    faded = {} if fixed else {"opacity": alt.condition(fade, alt.value(1), alt.value(0.1))}
    points = alt.Chart().encode(x=x, y=y, color=look["color"], **faded)
    dense = alt.Chart(alt.Data(values=[{"y": plot.dense, "text": f"{DENSE}: {plot.dense_text} %"}]))
    named = [alt.Tooltip("target:N", title="target"), alt.Tooltip("value:N", title=plot.y_title.removesuffix(" (%)"))]
    named += [alt.Tooltip("cost:N", title=plot.x_title.partition(" (")[0]), alt.Tooltip("near:N", title="next to")]
    chart = alt.layer(
        dense.mark_rule(strokeDash=[2, 3], strokeWidth=1.5, color=MIDDLE_GRAY).encode(y="y:Q", tooltip="text:N", description="text:N"),
        points.mark_line(strokeWidth=1.6, aria=False).encode(strokeDash=look["dash"]),
        points.mark_rule(strokeWidth=1.3, aria=False).encode(y=alt.Y("low:Q", title=plot.y_title), y2="high:Q"),
        points.mark_rule(strokeWidth=1.3, aria=False).encode(x=alt.X("left:Q", title=plot.x_title), x2="right:Q"),
        points.mark_point(size=75, strokeWidth=1.6, opacity=1).encode(
            shape=look["shape"],
            fill=look["fill"],
            tooltip=[alt.Tooltip("method:N", title="method"), *named],
            description="text:N",
        ),
        data=alt.Data(name=data),
    )  # fmt: skip
    return chart if fixed else chart.add_params(alt.param(name=HIGHLIGHT, value=""))


def _channels(styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return the encodings of a method's color, dashes, shape and fill; only the marks of papers' own methods are filled."""
    import altair as alt

    def by_method(channel: Any, values: Sequence[Any]) -> Any:
        return channel("method:N", scale=alt.Scale(domain=list(styles), range=list(values)), legend=None)

    color = by_method(alt.Color, [style.color for style in styles.values()])
    return {
        "color": color,
        "dash": by_method(alt.StrokeDash, [DASHES[style.variant] for style in styles.values()]),
        "shape": by_method(alt.Shape, [style.path for style in styles.values()]),
        "fill": alt.condition("datum.filled", color, alt.value("white")),
    }


def _legend(styles: Mapping[str, Style], columns: int = 3) -> altair.LayerChart | altair.FacetChart:
    """Draw the legend of a figure, whose dense network is a dotted line."""
    import altair as alt

    rows = [
        {"method": label, "filled": style.filled, "text": label, "x": 10 * (i % columns), "y": -(i // columns)}
        for i, (label, style) in enumerate(styles.items())
    ]
    end = len(rows)
    rows.append({"method": None, "filled": False, "text": DENSE, "x": 10 * (end % columns), "y": -(end // columns)})
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-1, 10 * columns], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-(end // columns) - 0.5, 0.5], nice=False))
    look = _channels(styles)
    marks = alt.Chart().encode(x=x, y=y, color=look["color"])
    named = alt.datum.method != None  # noqa: E711 (an expression)
    return alt.layer(
        marks.transform_filter(named).transform_calculate(left="datum.x - .7", right="datum.x + .7").mark_rule(strokeWidth=1.6, aria=False).encode(
            x=alt.X("left:Q", axis=None), x2="right:Q", strokeDash=look["dash"]
        ),
        alt.Chart().transform_filter("datum.method == null").transform_calculate(left="datum.x - .7", right="datum.x + .7").mark_rule(
            strokeDash=[2, 3], strokeWidth=1.5, color=MIDDLE_GRAY, aria=False
        ).encode(x=alt.X("left:Q", axis=None), x2="right:Q", y=y),
        marks.transform_filter(named).mark_point(size=75, strokeWidth=1.6, opacity=1, aria=False).encode(shape=look["shape"], fill=look["fill"]),
        alt.Chart().mark_text(align="left", dx=22, fontSize=12, color=INK).encode(x=x, y=y, text="text:N"),
        data=alt.Data(values=rows),
    ).properties(width=860, height=20 * (end // columns + 1))  # fmt: skip


FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'
CONFIG = {
    "font": FONT,
    "view": {"stroke": None},
    "title": {"color": INK, "fontSize": 14, "anchor": "start", "fontWeight": 600},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": SOFT,
        "tickColor": SOFT,
    },
}


def page_specification(plot: Plot, styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return the Vega-Lite specification of a plot that is as wide as its place on the page."""
    return {**_page_chart(plot, tuple(styles.items())), "datasets": {"points": plot.rows}}


@lru_cache(maxsize=32)
def _page_chart(plot: Plot, styles: tuple[tuple[str, Style], ...]) -> dict[str, Any]:
    """Return the specification without its rows, on which it does not depend: it takes a tenth of a second."""
    chart = draw(plot, dict(styles), "points").properties(width="container", height=270, description=plot.title)
    return _specification(chart)


def figure_specification(result_set: ResultSet) -> dict[str, Any]:
    """Return the specification of all plots in one figure, with one legend, for READMEs and without JavaScript."""
    import altair as alt

    plots = {f"plot{i}": plot for i, plot in enumerate(comparison_plots(result_set))}
    styles = method_styles(single_method_groups(result_set))
    drawn = [
        draw(plot, styles, name, fixed=True).properties(width=400, height=300, title=plot.title)
        for name, plot in plots.items()
    ]
    chart = alt.vconcat(alt.concat(*drawn, columns=2), _legend(styles))
    rows = {name: plot.rows for name, plot in plots.items()}
    return {**_specification(chart, "white"), "datasets": rows, "padding": 12}


def _specification(chart: Any, background: str | None = None) -> dict[str, Any]:
    """Return a chart as data, without the address of its schema, which the page must not contain."""
    found = chart.to_dict(validate=False)  # a test validates; it takes a second
    return {name: part for name, part in found.items() if name != "$schema"} | {
        "background": background,
        "config": CONFIG,
    }


def figure_svg(result_set: ResultSet) -> str:
    """Draw the figure of a comparison as SVG."""
    import vl_convert

    return vl_convert.vegalite_to_svg(figure_specification(result_set))


def javascript() -> str:
    """Return Vega, Vega-Lite and Vega-Embed (BSD licenses) as one script of 900 kB that loads nothing."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
