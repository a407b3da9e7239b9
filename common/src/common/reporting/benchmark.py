"""Run benchmarks, with the compared functions timed alternately in one process, and store the results for README tables.

A result file contains the raw series, the resulting values and their targets.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import cli
from common.atomic import write_json
from common.cli import THREADS, Range
from common.device import set_threads
from common.markdown import markdown_table
from common.runs import describe_environment, read_json
from common.settings import build, build_parser, option, settings
from common.timing import time_calls


@dataclass(frozen=True)
class BenchmarkValue:
    """A result of a benchmark.

    Attributes:
        quantity: Measured quantity.
        compared_with: Reference of a ratio; empty for an absolute value.
        value: The result, in ``unit``.
        bound: Target: the lower bound, or the upper bound if ``at_most``. A lower bound of 0 is no target.
        unit: "x" for a ratio, "%" for a fraction that is shown in percent, else a unit such as " s".
    """

    quantity: str
    compared_with: str
    value: float
    bound: float
    at_most: bool = False
    unit: str = "x"

    @property
    def reached(self) -> bool:
        """Whether the value is within the bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def measured(self) -> str:
        """The value with three significant digits and its unit."""
        return self._format(self.value, ".3g")

    @property
    def target(self) -> str:
        """The bound with its unit; empty if there is none."""
        if not self.bound and not self.at_most:
            return ""
        return f"{'at most' if self.at_most else 'at least'} {self._format(self.bound, 'g')}"

    def _format(self, number: float, digits: str) -> str:
        return f"{100 * number:{digits}} %" if self.unit == "%" else f"{number:{digits}}{self.unit}"


Series = dict[str, list[float]]


def time_interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> Series:
    """Time functions against each other, in ``repeats`` rounds after a warm-up: see :func:`common.timing.time_calls`.

    Args:
        sides: {name: function}.

    Returns:
        {name: milliseconds of a call, by round}.
    """
    timed = time_calls(sides, next(iter(sides)), fewest=repeats, most=repeats)
    return {name: [1000 * seconds for seconds in timed.series[name]] for name in sides}


def speedup(series: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """Return the ratio of the median times of ``other`` and ``name``."""
    return statistics.median(series[other]) / statistics.median(series[name])


@settings
class Benchmark:
    """Run a benchmark."""

    repeats: int = option(7, "number of measurements of each side", type=Range(int, 1, 10_000))
    threads: int | None = option(None, "number of CPU threads (default: chosen by torch)", type=THREADS)
    json: str | None = option(None, "file for the series and values (JSON)")


def run_benchmark(
    body: Callable[[int], tuple[Mapping[str, Sequence[float]], Sequence[BenchmarkValue]]],
    argv: Sequence[str] | None = None,
    repeats: int = 7,
) -> int:
    """Run the command of a benchmark script and return its exit status.

    Args:
        body: ``body(repeats)`` returns the series in milliseconds and the values. Its docstring is the description in ``-h``.
        repeats: Default of ``--repeats``.
    """

    script = f"benchmarks/{Path(sys.argv[0]).name}"

    def measure(words: Sequence[str] | None) -> None:
        parser = build_parser(Benchmark, script, defaults={"repeats": repeats})
        parser.description = body.__doc__
        args = build(Benchmark, vars(parser.parse_args(words)))
        set_threads(args.threads)
        series, values = body(args.repeats)
        for name, times in series.items():
            raw = " ".join(f"{value:.2f}" for value in times)
            print(f"{name}: median {statistics.median(times):.2f} ms of {len(times)} runs: {raw}")
        for value in values:
            verdict = "ok" if value.reached else "NOT REACHED"
            reference = f", compared with {value.compared_with}" if value.compared_with else ""
            print(f"{value.quantity}{reference}: {value.measured} (target: {value.target or 'none'}): {verdict}")
        if args.json:
            write_benchmark(args.json, f"python {script}", "ms", series, values)

    return cli.run(measure, argv)


def write_benchmark(
    path: Path | str, command: str, unit: str, series: Mapping[str, Sequence[float]], values: Sequence[BenchmarkValue]
) -> None:
    """Write a result file: command, raw series in ``unit``, their medians, the values and the environment."""
    record = {
        "command": command,
        "unit": unit,
        "medians": {name: round(statistics.median(times), 4) for name, times in series.items()},
        "series": {name: [round(value, 4) for value in times] for name, times in series.items()},
        "values": [asdict(value) for value in values],
        "environment": describe_environment("cpu"),
    }
    write_json(path, record)


def speed_table(folder: Path | str, pattern: str = "speed-*.json") -> str:
    """Format the values of all benchmark files in a folder as a Markdown table."""
    rows = []
    for file in sorted(Path(folder).glob(pattern)):
        record = read_json(file)
        for value in (BenchmarkValue(**entry) for entry in record["values"]):
            command = f"`{record['command']}`"
            rows.append([value.quantity, value.compared_with, value.measured, value.target, command])
    if not rows:
        return "Not measured yet."
    return markdown_table(["quantity", "compared with", "measured", "target", "command"], rows)
