"""Figures of the README: two diagrams of the method, and accuracy against MACs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.plots import COLORS, figure
from common.reporting.diagrams import draw_arrow, draw_box, prepare_canvas
from rewarded_metapruning.paper.published import LOGGED
from rewarded_metapruning.paper.settings import DrawDiagrams
from rewarded_metapruning.plots import format_title
from rewarded_metapruning.settings import MILLION
from rewarded_metapruning.tradeoff import reward

BLUE, RED, GREEN = COLORS[:3]
BASE_ACCURACY, BASE_MACS = 70.6, 4100  # base values of the logged ResNet-50 search
ROLES = {
    "chosen": ("searched", COLORS[1], "o"),
    "random": ("random, same target", COLORS[0], "s"),
    "unpruned": ("unpruned", COLORS[6], "^"),
}


def draw_training_diagram(path: Path) -> None:
    """Draw a training step of the PruningNet, and the search and the final training that use it."""
    with figure(path, width=9.0, height=4.2) as axes:
        prepare_canvas(axes, 18, 8.2)
        for x, number, title in (
            (0.3, 1, "train the PruningNet"),
            (0.3, 2, "search"),
            (10.4, 3, "train the best network"),
        ):
            axes.text(x, 7.75 if number == 1 else 2.75, f"{number}. {title}", fontsize=11, weight="bold")
        draw_box(axes, 2.3, 6.5, 3.6, 1.7, "random vector of widths\n[14, 22, 9, 30, ...]\nsampled every step", GREEN)
        draw_box(axes, 7.2, 6.5, 3.4, 1.7, "PruningNet:\ntwo linear layers\nper weight tensor", RED)
        draw_box(axes, 12.0, 6.5, 3.0, 1.7, "pruned network\nwith these weights", BLUE)
        draw_box(axes, 16.3, 6.5, 2.8, 1.7, "loss on a batch\nof images", BLUE)
        draw_arrow(axes, (4.1, 6.5), (5.5, 6.5), "scales")
        draw_arrow(axes, (8.9, 6.5), (10.5, 6.5), "weights")
        draw_arrow(axes, (13.5, 6.5), (14.9, 6.5))
        for start, end in (((16.3, 5.65), (16.3, 4.55)), ((16.3, 4.55), (7.2, 4.55)), ((7.2, 4.55), (7.2, 5.65))):
            if end[0] == 7.2 and start[0] == 7.2:
                draw_arrow(axes, start, end, color=RED)
            else:
                axes.plot(*zip(start, end, strict=True), color=RED, linewidth=1.4)
        axes.text(11.75, 4.68, "gradient: only the PruningNet is trained", ha="center", fontsize=8.5, color=RED)
        draw_box(axes, 2.1, 1.4, 3.2, 1.7, "50 vectors within\nthe MACs window", GREEN)
        draw_box(axes, 7.7, 1.4, 3.4, 1.7, "generated weights,\nbatch norm calibrated,\naccuracy → reward", RED)
        draw_arrow(axes, (3.7, 1.75), (6.0, 1.75))
        draw_arrow(axes, (6.0, 1.05), (3.7, 1.05))
        axes.text(4.85, 0.85, "mutation and\ncrossover\nof the best 10", ha="center", va="top", fontsize=7.5)
        draw_arrow(axes, (9.4, 1.4), (10.8, 1.4), "best")
        draw_box(axes, 14.2, 1.4, 6.8, 1.7, "plain network of these widths,\ntrained from scratch", BLUE)


def draw_reward_diagram(path: Path) -> None:
    """Draw lines of equal reward over MACs and accuracy, with the logged candidates, and the reward's two factors."""
    with figure(path, width=9.0, height=3.7, ncols=3, width_ratios=(1.7, 1, 1)) as (plane, left, right):
        macs, top1 = np.meshgrid(np.linspace(1000, 4100, 125), np.linspace(30, 68, 153))
        rewards = np.vectorize(lambda a, f: reward(a, f, BASE_ACCURACY, BASE_MACS))(top1, macs)
        lines = plane.contour(macs, top1, rewards, levels=(0.5, 1, 2, 4, 8, 16, 32), colors=BLUE, linewidths=1.2)
        plane.clabel(lines, fontsize=8, fmt="%g")
        logged = np.array(LOGGED["resnet50"])
        plane.plot(logged[:, 0], logged[:, 1], "o", color=RED, markersize=5)
        note = "ten best candidates of the\nlogged ResNet-50 search"
        style = {"arrowstyle": "-", "color": RED}
        plane.annotate(note, logged[0, :2], xytext=(1060, 64.8), fontsize=8.5, color=RED, va="center", arrowprops=style)
        plane.set(xlabel="MACs F (millions)", ylabel="top-1 a (%)", title="lines of equal reward ψ ρ")
        accuracies = np.linspace(30, 62, 65)
        left.plot(accuracies, (BASE_ACCURACY / (BASE_ACCURACY - accuracies)) ** 2, color=BLUE)
        left.set(xlabel="top-1 a (%)", title="ψ = (A₀ / (A₀ − a))²", ylim=(0, None))
        costs = np.linspace(1000, 4100, 63)
        right.plot(costs, -np.log(costs / BASE_MACS), color=BLUE)
        right.set(xlabel="MACs F (millions)", title="ρ = −ln(F / F₀)", ylim=(0, None))
        for axes in (plane, left, right):
            axes.title.set_fontsize(10)


def plot_accuracy_against_macs(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Plot the test accuracy of every trained network of the comparison, against MACs and by role with its mean."""
    if not records:
        raise UserError("no small-*.json results to plot; run python -m rewarded_metapruning.paper.search_vs_random")
    with figure(path, width=8.0, height=4.0, ncols=2) as (left, right):
        for place, (role, (label, color, marker)) in enumerate(ROLES.items()):
            found = [n for record in records for n in record["networks"] if n["role"] == role]
            macs, top1 = [n["macs"] / MILLION for n in found], [n["top1"] for n in found]
            left.scatter(macs, top1, color=color, marker=marker, s=26, label=label)
            right.scatter(
                np.full(len(top1), place) + np.linspace(-0.15, 0.15, len(top1)), top1, color=color, marker=marker, s=26
            )
            right.hlines(np.mean(top1), place - 0.28, place + 0.28, color=color)
        left.set_xlabel("MACs (millions)")
        left.set_ylabel("top-1 on test images (%)")
        left.legend(fontsize=8, loc="center")
        right.set_xticks(range(len(ROLES)), [label.replace(", ", ",\n") for label, _, _ in ROLES.values()])
        right.set_title("lines: means", fontsize=9)
        left.set_title(format_title(records), fontsize=9)


def draw_diagrams(settings: DrawDiagrams) -> None:
    """Draw both diagrams of the method to --out."""
    for name, draw in (("training.png", draw_training_diagram), ("reward.png", draw_reward_diagram)):
        file = Path(settings.out) / name
        draw(file)
        print(file)
