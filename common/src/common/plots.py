"""Common style of all plots, and atomic writing of figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler

from common.atomic import atomic_file

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "compression-papers",
}
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito: readable with color blindness
KEPT, REMOVED = COLORS[0], "#d9d9d9"


@contextmanager
def figure(path: Path | str, width: float = 7.0, height: float = 4.5, **subplots: Any) -> Iterator[Any]:
    """Plot in the common style and write the file (.png, .svg, .pdf) at the end: ``with figure("a.png") as axes:``.

    Args:
        width: Inches.
        height: Inches.
        subplots: Arguments of matplotlib's ``Figure.subplots``, whose result is yielded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLORS)}):
        plot = Figure(figsize=(width, height))
        FigureCanvasAgg(plot)
        yield plot.subplots(**subplots)
        with atomic_file(path) as temporary:
            plot.savefig(
                temporary,
                format=path.suffix.lstrip(".") or "png",
                metadata={"Date": None} if path.suffix == ".svg" else None,
            )
