"""Boxes and arrows on a `common.plots` figure, for diagrams that explain a method. Coordinates are in axes units."""

from typing import Any

INK, SOFT = "#24292f", "#57606a"


def prepare_canvas(axes: Any, width: float, height: float) -> Any:
    """Prepare an empty drawing area of ``width`` x ``height`` units with equal aspect, without axes, grid or ticks."""
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return axes


def draw_box(
    axes: Any, x: float, y: float, width: float, height: float, text: str, color: str, size: float = 9
) -> None:
    """Draw a rounded box centered at (x, y), tinted and framed in ``color``, with centered text."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    for alpha, fill in ((0.14, True), (1.0, False)):
        style: dict[str, Any] = {
            "boxstyle": "round,pad=0,rounding_size=0.12",
            "color": color,
            "fill": fill,
            "alpha": alpha,
        }
        axes.add_patch(FancyBboxPatch(corner, width, height, linewidth=1.4, **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, linespacing=1.35)


def draw_arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    color: str = SOFT,
    bend: float = 0.0,
    dashed: bool = False,
    above: float = 0.16,
) -> None:
    """Draw an arrow, bent by a fraction of its length. The text is placed ``above`` the midpoint of the straight line."""
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.4, "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
    style |= {"connectionstyle": f"arc3,rad={bend}", "linestyle": "--" if dashed else "-"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + above)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=8, color=color if color != SOFT else INK)
