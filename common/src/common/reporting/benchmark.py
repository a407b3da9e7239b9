"""Benchmarks: two sides interleaved in one process, and what was measured as a file behind a README's numbers.

The file holds both raw series, the ratios and what they had to reach.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import cli
from common.atomic import write_json
from common.cli import positive_int
from common.device import set_threads
from common.markdown import markdown_table
from common.runs import describe_environment, read_json
from common.settings import build, option, parser_of, settings


@dataclass(frozen=True)
class BenchmarkValue:
    """One figure: ``value`` of ``what`` against ``against``; ``bound`` is its floor, or its ceiling if ``at_most``.

    A floor of 0, which any gain reaches, is not shown in tables.
    unit: "x" for a ratio, " s" or the like for a figure that is none.
    """

    what: str
    against: str
    value: float
    bound: float
    at_most: bool = False
    unit: str = "x"

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def wanted(self) -> str:
        if not self.bound and not self.at_most:
            return ""
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}"


Series = dict[str, list[float]]


def time_interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> Series:
    """Milliseconds of each side, ``repeats`` times in turn, after ``warm_up`` calls of each in turn."""
    for _ in range(warm_up):
        for call in sides.values():
            call()
    series: Series = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            series[name].append(1000 * (time.perf_counter() - start))
    return series


def speedup(series: Mapping[str, Sequence[float]], ours: str, other: str) -> float:
    """How many times longer the other side takes, of medians."""
    return statistics.median(series[other]) / statistics.median(series[ours])


@settings
class Benchmark:
    """What is measured, and where it is kept."""

    repeats: int = option(7, "times each side is measured", type=positive_int)
    threads: int | None = option(None, "threads on the CPU; torch's choice if not given")
    json: str | None = option(None, "write the figures to this file too")


def run_benchmark(
    body: Callable[[int], tuple[Mapping[str, Sequence[float]], Sequence[BenchmarkValue]]],
    argv: Sequence[str] | None = None,
    repeats: int = 7,
) -> int:
    """The command of a benchmark script: ``body(repeats)`` gives series in milliseconds and ratios; --json keeps them."""

    script = f"benchmarks/{Path(sys.argv[0]).name}"

    def measure(words: Sequence[str] | None) -> None:
        parser = parser_of(Benchmark, script, defaults={"repeats": repeats})
        parser.description = body.__doc__
        args = build(Benchmark, vars(parser.parse_args(words)))
        set_threads(args.threads)
        series, ratios = body(args.repeats)
        for name, values in series.items():
            raw = " ".join(f"{value:.2f}" for value in values)
            print(f"{name}: median {statistics.median(values):.2f} ms of {len(values)} runs: {raw}")
        for ratio in ratios:
            verdict = "ok" if ratio.reached else "NOT REACHED"
            value = f"{ratio.value:.3g}{ratio.unit}"
            print(f"{ratio.what}, against {ratio.against}: {value} (wanted: {ratio.wanted}): {verdict}")
        if args.json:
            write_benchmark(args.json, f"python {script}", "ms", series, ratios)

    return cli.run(measure, argv)


def write_benchmark(
    path: Path | str, command: str, unit: str, series: Mapping[str, Sequence[float]], ratios: Sequence[BenchmarkValue]
) -> None:
    """Write series (raw, in ``unit``), their medians, ratios, environment and the command that made them."""
    record = {
        "command": command,
        "unit": unit,
        "medians": {name: round(statistics.median(values), 4) for name, values in series.items()},
        "series": {name: [round(value, 4) for value in values] for name, values in series.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "environment": describe_environment("cpu"),
    }
    write_json(path, record)


def speed_table(folder: Path | str, pattern: str = "speed-*.json") -> str:
    """All ratios of a folder's benchmark files as Markdown."""
    rows = []
    for file in sorted(Path(folder).glob(pattern)):
        record = read_json(file)
        for ratio in (BenchmarkValue(**entry) for entry in record["ratios"]):
            value = f"{ratio.value:.3g}{ratio.unit}"
            rows.append([ratio.what, ratio.against, value, ratio.wanted, f"`{record['command']}`"])
    if not rows:
        return "Not measured yet."
    return markdown_table(["what", "against", "measured", "wanted", "command"], rows)
