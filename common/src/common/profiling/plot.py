"""Plot the times of layers, dense next to pruned, colored by what bounds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from common.errors import printable
from common.plots import COLORS, figure
from common.profiling.report import layer_speed, slowest_layers
from common.profiling.roofline import ARITHMETIC, MEMORY, Machine
from common.profiling.times import NetworkTimes
from common.profiling.work import KINDS

BOUND_COLORS = {ARITHMETIC: COLORS[0], MEMORY: COLORS[1], "": "#999999"}
PALE = 0.4  # opacity of the dense network
LONGEST = 40  # letters of a network's name


def plot_layers(path: Path | str, networks: Mapping[str, NetworkTimes], machine: Machine, top: int, title: str) -> None:
    """Plot the kinds of layers and the slowest layers of the first network, in all networks: horizontal bars (.png, .svg, .pdf)."""
    dense = next(iter(networks.values()))
    of_kinds = {name: network.kinds() for name, network in networks.items()}
    kinds = [kind for kind in KINDS if any(kind in of for of in of_kinds.values())]
    shown = slowest_layers(dense, top)
    row = 0.14 * len(networks) + 0.08  # inches
    heights = [row * len(kinds), row * len(shown)]
    with figure(path, width=8.0, height=2.4 + sum(heights), nrows=2, height_ratios=heights) as (above, below):
        for i, (name, network) in enumerate(networks.items()):
            bars = [(1000 * of_kinds[name].get(kind, 0.0), "#999999") for kind in kinds]
            _draw(above, bars, i, len(networks))
            _draw(below, [_bar(network, layer, machine) for layer in shown], i, len(networks))
        _label(above, kinds, "ms per batch, by kind")
        _label(below, [_name(layer, dense) for layer in shown], f"ms per batch, the {len(shown)} slowest layers")
        above.set_title(title, fontsize=10)
        legend = [Patch(color=BOUND_COLORS[bound], label=f"bound by {bound}") for bound in (ARITHMETIC, MEMORY)]
        names = [name if len(name) <= LONGEST else f"...{name[-LONGEST + 3 :]}" for name in networks]
        legend += [Patch(color="#000000", alpha=_opacity(i, len(names)), label=name) for i, name in enumerate(names)]
        above.figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8)


def _draw(axes: Any, bars: Sequence[tuple[float, str]], number: int, networks: int) -> None:
    """Draw the bars of one of several networks, beside those of the others."""
    thickness = 0.8 / networks
    places = [row + (number - (networks - 1) / 2) * thickness for row in range(len(bars))]
    values, colors = zip(*bars, strict=True)
    axes.barh(places, values, thickness * 0.92, color=colors, alpha=_opacity(number, networks))


def _opacity(number: int, networks: int) -> float:
    return PALE if number == 0 else 1.0 - 0.4 * (number - 1) / networks


def _label(axes: Any, labels: Sequence[str], about: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(about, fontsize=9)


def _name(layer: str, network: NetworkTimes) -> str:
    calls = network.work[layer].calls
    return printable(f"{layer}, {calls} calls" if calls > 1 else layer).replace("$", r"\$")


def _bar(network: NetworkTimes, layer: str, machine: Machine) -> tuple[float, str]:
    """Return the milliseconds of a layer, and the color of what bounds it."""
    if layer not in network.work:
        return 0.0, BOUND_COLORS[""]
    seconds = network.seconds[layer]
    return 1000 * seconds, BOUND_COLORS[layer_speed(network.work[layer], seconds, machine).bound]
