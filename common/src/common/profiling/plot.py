"""Plot the times of layers, dense next to pruned, colored by what bounds them."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.patches import Patch

from common.plots import COLORS, figure
from common.profiling.report import layer_speed, slowest_layers
from common.profiling.roofline import ARITHMETIC, MEMORY, Machine
from common.profiling.times import NetworkTimes
from common.profiling.work import BETWEEN

BOUND_COLORS = {ARITHMETIC: COLORS[0], MEMORY: COLORS[1], "": "#999999"}
PALE = 0.4  # opacity of the dense network
LABEL = 40


def plot_layers(path: Path | str, networks: Mapping[str, NetworkTimes], machine: Machine, top: int, title: str) -> None:
    """Plot the slowest layers of the first network, in all networks: horizontal bars (.png, .svg, .pdf)."""
    dense = next(iter(networks.values()))
    shown = slowest_layers(dense, top)
    labels = [_label(name, dense) for name in shown]
    labels += [f"{len(dense.work) - len(shown)} others", BETWEEN]
    opacities = [PALE, *(1.0 - 0.3 * i / len(networks) for i in range(len(networks) - 1))]
    thickness = 0.8 / len(networks)
    with figure(path, width=8.0, height=1.6 + (0.14 * len(networks) + 0.08) * len(labels)) as axes:
        for i, (network, opacity) in enumerate(zip(networks.values(), opacities, strict=True)):
            places = [row + (i - (len(networks) - 1) / 2) * thickness for row in range(len(labels))]
            values, colors = _bars(network, shown, machine)
            axes.barh(places, values, thickness * 0.92, color=colors, alpha=opacity)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms per batch")
        axes.set_title(title, fontsize=10)
        legend = [Patch(color=BOUND_COLORS[bound], label=f"bound by {bound}") for bound in (ARITHMETIC, MEMORY)]
        names = [name if len(name) <= LABEL else f"...{name[-LABEL + 3 :]}" for name in networks]
        legend += [Patch(color="#000000", alpha=a, label=n) for n, a in zip(names, opacities, strict=True)]
        axes.figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8)


def _label(name: str, network: NetworkTimes) -> str:
    calls = network.work[name].calls
    return f"{name}, {calls} calls" if calls > 1 else name


def _bars(network: NetworkTimes, shown: list[str], machine: Machine) -> tuple[list[float], list[str]]:
    """Return milliseconds and colors: the layers that are shown, all others, and between layers."""
    seconds = [network.seconds.get(name, 0.0) for name in shown]
    bounds = [layer_speed(network.work[n], 1.0, machine).bound if n in network.work else "" for n in shown]
    others = sum(network.seconds.values()) - sum(seconds)
    return [1000 * s for s in (*seconds, others, network.between)], [BOUND_COLORS[bound] for bound in (*bounds, "", "")]
