"""Draw plots as SVG text, which needs no library to display, scales with the page, prints, and supports screen readers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 300  # of a plot, in user units; the text is 12 units high
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 46
PAPER_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8a6d00",
    "#56b4e9",
)  # Okabe and Ito: distinguishable by color-blind readers
REFERENCE_COLORS = ("#444444", "#777777", "#999999")
DASHES = ("5 3", "2 3", "7 3 2 3")
SIZE = 5.5  # radius of a marker


@dataclass(frozen=True)
class Style:
    """Appearance of a method in every plot; color, marker and dashes all differ, so that none of them is needed alone."""

    color: str
    marker: str
    dash: str = ""


@dataclass(frozen=True)
class Point:
    """A point: x and y with their standard deviations (0 for a single seed), and the text of its tooltip."""

    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0
    text: str = ""


def method_styles(labels: Sequence[str], references: Sequence[str]) -> dict[str, Style]:
    """Return a style for each label; the reference methods are gray and dashed."""
    papers = [label for label in labels if label not in references]
    markers = list(MARKERS)
    found = {
        label: Style(PAPER_COLORS[i % len(PAPER_COLORS)], markers[i % len(markers)]) for i, label in enumerate(papers)
    }
    for i, label in enumerate(one for one in labels if one in references):
        color = REFERENCE_COLORS[i % len(REFERENCE_COLORS)]
        found[label] = Style(color, markers[-1 - i % len(markers)], DASHES[i % len(DASHES)])
    return found


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float], str]:
    def draw(x: float, y: float) -> str:
        points = " ".join(f"{x + a * SIZE:.1f},{y + b * SIZE:.1f}" for a, b in corners)
        return f'<polygon points="{points}"/>'

    return draw


def _cross(x: float, y: float) -> str:
    s = SIZE * 0.8
    return (
        f'<path d="M{x - s:.1f} {y - s:.1f}L{x + s:.1f} {y + s:.1f}M{x - s:.1f} {y + s:.1f}L{x + s:.1f} {y - s:.1f}"/>'
    )


def _plus(x: float, y: float) -> str:
    return f'<path d="M{x - SIZE:.1f} {y:.1f}H{x + SIZE:.1f}M{x:.1f} {y - SIZE:.1f}V{y + SIZE:.1f}"/>'


MARKERS: dict[str, Callable[[float, float], str]] = {
    "circle": lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{SIZE * 0.9:.1f}"/>',
    "square": _polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": _polygon((0, -1.1), (1, 0.7), (-1, 0.7)),
    "diamond": _polygon((0, -1.2), (1, 0), (0, 1.2), (-1, 0)),
    "pentagon": _polygon((0, -1.1), (1.05, -0.3), (0.65, 0.95), (-0.65, 0.95), (-1.05, -0.3)),
    "down": _polygon((0, 1.1), (1, -0.7), (-1, -0.7)),
    "plus": _plus,
    "cross": _cross,
}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers within [low, high]."""
    span = high - low
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def axis_range(values: Sequence[float], min_width: float, limits: tuple[float, float]) -> tuple[float, float]:
    """Return a range within ``limits`` that contains the values with a margin and is at least ``min_width`` wide."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), (min_width - (high - low)) / 2, 1e-9)
    return max(limits[0], low - margin), min(limits[1], high + margin)


def plot(
    series: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Style],
    *,
    x_label: str,
    y_label: str,
    title: str,
    dense: float | None = None,
    log_x: bool = False,
    x_limits: tuple[float, float] = (0.0, math.inf),
    y_limits: tuple[float, float] = (0.0, 100.0),
) -> str:
    """Plot lines with markers and error bars.

    Args:
        series: Points by label.
        styles: Style of each label.
        dense: The dense network's y, drawn as a horizontal line.
        log_x: Whether the x axis is logarithmic.
        x_limits: Limits of the x axis.
        y_limits: Limits of the y axis.

    Returns:
        An SVG element.
    """
    points = [p for line in series.values() for p in line]
    xs = [v for p in points for v in (p.x - p.dx, p.x + p.dx)]
    ys = [v for p in points for v in (p.y - p.dy, p.y + p.dy)] + ([] if dense is None else [dense])
    y0, y1 = axis_range(ys, 1.0, y_limits)
    x0, x1 = (min(xs) / 1.2, max(xs) * 1.2) if log_x else axis_range(xs, 4.0, x_limits)
    scale = math.log if log_x else float

    def place(x: float, y: float) -> tuple[float, float]:
        across = (scale(min(max(x, x0), x1)) - scale(x0)) / (scale(x1) - scale(x0))
        height = (min(max(y, y0), y1) - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)

    x_ticks = (
        [v for power in (1, 10, 100) for m in (1, 2, 5) if x0 <= (v := m * power) <= x1] if log_x else ticks(x0, x1)
    )
    parts = [_axes(x_ticks, ticks(y0, y1), place, x_label, y_label)]
    if dense is not None:
        parts.append(f'<path class="dense" d="M{LEFT} {place(x0, dense)[1]:.1f}H{WIDTH - RIGHT}"/>')
    parts += [_line(label, line, styles[label], place) for label, line in series.items() if line]
    summary = f"{title}. {len(series)} methods; the values are in the table below."
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _axes(xs: Sequence[float], ys: Sequence[float], place, x_label: str, y_label: str) -> str:
    parts = []
    for value in ys:
        y = place(xs[0] if xs else 1.0, value)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in xs:
        x = place(value, 0.0)[0]
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    center = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(13 {center}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _line(label: str, line: Sequence[Point], style: Style, place) -> str:
    line = sorted(line, key=lambda p: p.x)
    places = [place(p.x, p.y) for p in line]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
    parts = [f'<path d="{path}" fill="none" stroke-width="2"{dash}/>'] if len(line) > 1 else []
    for point, (x, y) in zip(line, places, strict=True):
        top, bottom = place(point.x, point.y + point.dy)[1], place(point.x, point.y - point.dy)[1]
        left, right = place(point.x - point.dx, point.y)[0], place(point.x + point.dx, point.y)[0]
        bars = f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>' * (point.dy > 0)
        bars += f'<path d="M{left:.1f} {y:.1f}H{right:.1f}"/>' * (point.dx > 0)
        tooltip = escape(f"{label}: {point.text}")
        parts.append(f"<g><title>{tooltip}</title>{bars}{MARKERS[style.marker](x, y)}</g>")
    return f'<g stroke="{style.color}" fill="{style.color}" stroke-width="1.3">{"".join(parts)}</g>'


def dense_mark() -> str:
    """Return the dense network's line, for the legend."""
    return '<svg class="mark" viewBox="0 0 34 14" aria-hidden="true"><path class="dense" d="M1 7H33"/></svg>'


def legend_mark(style: Style) -> str:
    """Return a line with its marker, for the legend."""
    dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
    return (
        f'<svg class="mark" viewBox="0 0 34 14" aria-hidden="true"><g stroke="{style.color}" fill="{style.color}" '
        f'stroke-width="1.5"><path d="M1 7H33"{dash}/>{MARKERS[style.marker](17, 7)}</g></svg>'
    )


def width_bars(layers: Sequence[tuple[str, float, str]], color: str, title: str) -> str:
    """Draw a bar per layer, in a frame that is the dense width.

    Args:
        layers: (name, fraction of the channels that is kept, text of the tooltip).

    Returns:
        An SVG element.
    """
    height, gap = 56.0, 1.0
    width = 640.0
    step = width / max(1, len(layers))
    bars = []
    for i, (_, fraction, tooltip) in enumerate(layers):
        x, wide = i * step + gap / 2, max(0.5, step - gap)
        bars.append(
            f'<g><title>{escape(tooltip)}</title><rect class="frame" x="{x:.2f}" y="0" width="{wide:.2f}" height="{height}"/>'
            f'<rect x="{x:.2f}" y="{height * (1 - fraction):.2f}" width="{wide:.2f}" height="{height * fraction:.2f}" fill="{color}"/></g>'
        )
    return (
        f'<svg class="strip" viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(bars)}</svg>'
    )
