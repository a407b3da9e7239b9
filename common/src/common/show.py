"""``python -m common.show``: describe a file that this project wrote, or list all runs below a folder. Nothing is changed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, printable
from common.settings import REQUIRED, command, option, settings

if TYPE_CHECKING:
    from common.descriptions.description import Style
    from common.descriptions.run_table import Run

FORMATS = ("text", "csv", "json")
HEADER = ("run", "status", "network", "dense", "top-1", "MACs", "bytes", "time", "cmd")
COMPLETE = 12  # commands that are printed completely in a terminal without --all
SORTED = (
    "run",
    "status",
    "package",
    "method",
    "network",
    "dataset",
    "seed",
    "top1_dense",
    "top1",
    "agreement",
    "macs",
    "bytes",
    "seconds",
    "command",
)


@settings
class Show:
    """Describe a file in one screen (network, sources, command, cost, accuracy, widths), or list all runs below a folder."""

    path: str = option(REQUIRED, "file or folder", "path", metavar="FILE|FOLDER")
    format: str = option("text", "output: text, csv (folders) or json", choices=FORMATS)
    sort: str = option(
        "run",
        f"column by which runs are sorted, accuracies with the highest first: {', '.join(SORTED)}",
        choices=SORTED,
        metavar="COLUMN",
    )
    reverse: bool = option(False, "sort in the opposite order")
    all: bool = option(
        False, "list every layer of deep networks, and long commands completely, also in a small terminal"
    )
    plot: str | None = option(None, "plot the learning curves to this file (.png, .svg or .pdf)", metavar="FILE")
    columns: list[str] = option(
        [], "columns of log.csv in the plot (default: loss and accuracy)", type=str, metavar="COLUMN"
    )
    tensorboard: str | None = option(None, "write the learning curves to this folder for TensorBoard", metavar="FOLDER")

    def __post_init__(self) -> None:
        if self.plot and Path(self.plot).suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UserError(f"--plot {self.plot}: give the name of a .png, .svg or .pdf file")
        if self.columns and not self.plot:
            raise UserError("--columns: names the curves of a plot; add --plot FILE")


def show(settings: Show) -> None:
    """Print the description of a file, or the table of runs."""
    path = Path(settings.path)
    if path.is_dir():
        _show_folder(path, settings)
    elif path.is_file():
        _show_file(path, settings)
    else:
        raise UserError(f"{path}: no such file or folder")


def _show_file(path: Path, settings: Show) -> None:
    from common.descriptions.description import render
    from common.descriptions.readers import describe

    if settings.format == "csv":
        raise UserError("--format csv: lists the runs of a folder; use --format json for a file")
    found = describe(path)
    if settings.format == "json":
        print(json.dumps({"file": str(path), **found.as_json()}, indent=2))
    else:
        _print(render(str(path), found, terminal_style(settings.all)))
    _write_curves(path.parent, ["."], settings)


def _show_folder(folder: Path, settings: Show) -> None:
    from common.descriptions.run_table import COLUMNS, find_runs, sort_runs

    runs = sort_runs(find_runs(folder), settings.sort, settings.reverse)
    if not runs:
        raise UserError(f"{folder}: contains no runs; give the folder that a command wrote with --out, or one above it")
    rows = [run.as_row() for run in runs]
    if settings.format == "json":
        print(json.dumps(rows, indent=2))
    elif settings.format == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
        )
    else:
        _print("\n".join(_table_lines(runs, terminal_style(settings.all))))
    _write_curves(folder, [run.run for run in runs], settings)


def _table_lines(runs: Sequence[Run], style: Style) -> Iterator[str]:
    """Yield a table of runs, then the reasons, the commands by number, and the numbers of runs by status."""
    from common.descriptions.description import aligned, fact_lines, shorten_middle
    from common.descriptions.records import FINISHED

    commands = {text: str(i + 1) for i, text in enumerate(dict.fromkeys(run.command for run in runs if run.command))}
    rows = [_cells(run, commands) for run in runs]
    empty = [i for i, name in enumerate(HEADER) if i > 1 and not any(row[i] for row in rows)]
    empty += [HEADER.index("network")] if len({run.network for run in runs if run.network}) == 1 else []
    first, *lines = aligned(*_without(HEADER, rows, empty))
    if style.columns and max(map(len, [first, *lines])) > style.columns:
        empty += [HEADER.index("status")] if {run.status for run in runs} == {FINISHED} else []  # the last line says so
        first, *lines = aligned(*_without(HEADER, rows, empty), style.columns)
    yield style.bold(first)
    yield from lines
    reasons = [(run.run, run.reason) for run in runs if run.reason and run.status != "waiting"]
    if reasons:
        yield from ["", style.bold("reasons"), *fact_lines(reasons, style)]
    if commands:
        shown = [(number, text) for text, number in commands.items()]
        if style.columns and len(shown) > COMPLETE and not style.everything:
            shown = [(number, shorten_middle(text, style.columns - 5)) for number, text in shown]
        yield from ["", style.bold("commands"), *fact_lines(shown, style)]
    states: dict[str, int] = {}
    for run in runs:
        states[run.status] = states.get(run.status, 0) + 1
    yield from [
        "",
        f"{len(runs)} run{'s' * (len(runs) != 1)}: {', '.join(f'{n} {printable(status)}' for status, n in states.items())}",
    ]


def _cells(run: Run, commands: Mapping[str, str]) -> list[str]:
    from common.descriptions.run_records import duration

    percents = [f"{value:.2f}" if value is not None else "" for value in (run.top1_dense, run.top1)]
    fractions = [f"{100 * value:.1f}%" if value is not None else "" for value in (run.macs, run.bytes)]
    time = duration(run.seconds) if run.seconds is not None else ""
    return [run.run, run.status, run.network, *percents, *fractions, time, commands.get(run.command, "")]


def _without(
    header: Sequence[str], rows: Sequence[Sequence[str]], left_out: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    kept = [i for i in range(len(header)) if i not in left_out]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _print(text: str) -> None:
    """Print a text; letters that the output cannot encode become escape sequences."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _write_curves(root: Path, names: Sequence[str], settings: Show) -> None:
    if not (settings.plot or settings.tensorboard):
        return
    from common.descriptions.curves import plot_curves, read_curves, write_tensorboard

    runs = read_curves(root, names)
    if settings.plot:
        columns = plot_curves(Path(settings.plot), runs, settings.columns)
        print(f"{settings.plot}: {', '.join(map(printable, columns))} of {len(runs)} runs", file=sys.stderr)
    if settings.tensorboard:
        write_tensorboard(Path(settings.tensorboard), runs)
        print(f"{settings.tensorboard}: {len(runs)} runs; tensorboard --logdir {settings.tensorboard}", file=sys.stderr)


def terminal_style(everything: bool) -> Style:
    """Return the style for standard output: size and color of a terminal; unlimited and plain for a file or pipe."""
    from common.descriptions.description import Style

    try:
        "█░…".encode(sys.stdout.encoding or "ascii")
        unicode = True
    except (UnicodeError, LookupError):
        unicode = False
    if not sys.stdout.isatty():
        return Style(unicode=unicode, everything=everything)
    size = shutil.get_terminal_size()
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(size.columns, size.lines, color, unicode, everything)


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.show") -> int:
    """Run the command and return its exit status."""
    return command(Show, show, argv, prog)


if __name__ == "__main__":
    sys.exit(main())
