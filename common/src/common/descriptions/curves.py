"""Learning curves of runs: a plot, or TensorBoard's files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common.descriptions.records import read_log
from common.errors import UserError, printable
from common.runs import LOG

STEPS = ("epoch", "generation", "iteration", "step", "round")  # columns that number the rows, the first one that exists
SKIPPED = ("seconds", "learning_rate")
PREFERRED = ("train_loss", "test_loss", "train_top1", "test_top1")
PANELS = 6
NAMED = 20  # curves with a legend
LABEL = 48
OURS = ".show"  # suffix of TensorBoard's files that this module writes


@dataclass(frozen=True)
class Curves:
    """Curves of a log: points (step, value) by column. step: what numbers the points, e.g. "epoch"."""

    step: str
    columns: Mapping[str, Sequence[tuple[float, float]]]


def read_curves(root: Path, folders: Sequence[str]) -> dict[str, Curves]:
    """Read the logs of runs: {run: curves}; runs without rows are left out. Raises UserError if no run has a log."""
    found = {}
    for name in folders:
        log = root / name / LOG
        if log.is_file():
            try:
                curves = _curves(log)
            except (UserError, OSError):  # its row says that it is damaged
                continue
            if curves.columns:
                found[root.resolve().name if name == "." else name] = curves
    if not found:
        raise UserError(f"{root}: no {LOG} with the values of at least one epoch; curves are those of runs that train")
    return found


def _curves(log: Path) -> Curves:
    rows = read_log(log)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    step = next((name for name in STEPS if name in columns), "row")
    steps = [row.get(step, 0.0) for row in rows]
    if any(a >= b for a, b in pairwise(steps)):  # several trainings in one log
        step = "row"
    if step == "row":
        steps = [float(i + 1) for i in range(len(rows))]
    shown = [name for name in columns if name not in (*STEPS, *SKIPPED)]
    return Curves(
        step, {name: [(x, row[name]) for x, row in zip(steps, rows, strict=True) if name in row] for name in shown}
    )


def plot_curves(path: Path, runs: Mapping[str, Curves], columns: Sequence[str] = ()) -> list[str]:
    """Plot a panel per column and a line per run, and return the columns. Raises UserError for an unknown column."""
    from matplotlib.ticker import MaxNLocator

    from common.plots import COLORS, figure

    known = list(dict.fromkeys(name for curves in runs.values() for name in curves.columns))
    for name in columns:
        if name not in known:
            raise UserError(f"--columns {name}: not in the logs; they have {', '.join(known)}")
    shown = list(columns) or [name for name in PREFERRED if name in known] or known[:PANELS]
    across = min(len(shown), 2)
    down = -(-len(shown) // across)
    named = len(runs) <= NAMED
    steps = " or ".join(dict.fromkeys(curves.step for curves in runs.values()))
    with figure(
        path, 4.5 * across, 3.2 * down + 0.22 * len(runs) * named, nrows=down, ncols=across, squeeze=False
    ) as grid:
        panels = grid.flatten()
        lines = {}
        for axes, name in zip(panels, shown, strict=False):
            for i, (run, curves) in enumerate(runs.items()):
                points = curves.columns.get(name)
                if points:
                    line = ("-", "--", ":")[i // len(COLORS) % 3] + "o" * (len(points) == 1)
                    color, alpha = COLORS[i % len(COLORS)], 1.0 if named else 0.4
                    (lines[run],) = axes.plot(*zip(*points, strict=True), line, color=color, alpha=alpha)
            axes.set(title=_plain(name.replace("_", " ")), xlabel=_plain(steps))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        if named:
            labels = [_plain(_label(run)) for run in lines]
            panels[0].figure.legend(lines.values(), labels, loc="outside lower center")
    return shown


def _label(run: str) -> str:
    return run if len(run) <= LABEL else f"...{run[-LABEL + 3 :]}"


def _plain(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return printable(text).replace("$", r"\$")


def write_tensorboard(folder: Path, runs: Mapping[str, Curves]) -> None:
    """Write the curves for TensorBoard, one of its runs per run. Raises UserError if it is not installed."""
    from common.training.loop import check_tensorboard

    check_tensorboard(folder)
    from torch.utils.tensorboard import SummaryWriter

    for run, curves in runs.items():
        place = folder / run
        for old in place.glob(f"events.out.tfevents.*{OURS}"):  # those of an earlier call
            old.unlink()
        with SummaryWriter(str(place), filename_suffix=OURS) as writer:
            for name, points in curves.columns.items():
                for step, value in points:
                    writer.add_scalar(name, value, int(step))
