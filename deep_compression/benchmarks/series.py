"""Interleaved timing in one process, and the table with ratios and raw series that every benchmark prints."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import cli
from common.atomic import write_json
from common.runs import describe_environment


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times in turn, after one call of each to warm up."""
    for call in sides.values():
        call()
    series: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            series[name].append(time.perf_counter() - start)
    return series


def ratio(series: Mapping[str, list[float]], ours: str, other: str) -> float:
    """How many times longer the other takes, of medians."""
    return statistics.median(series[other]) / statistics.median(series[ours])


def show(title: str, series: Mapping[str, list[float]]) -> None:
    print(title)
    for name, seconds in series.items():
        raw = " ".join(f"{1000 * s:.1f}" for s in seconds)
        print(f"  {name:<28} median {1000 * statistics.median(seconds):9.2f} ms   [{raw}]")


def main(name: str, body: Callable[[argparse.Namespace], list[dict]], repeats: int = 7) -> None:
    """Run a benchmark: `body` returns rows with what, against, ratio, floor and more; --json keeps them."""

    def run(argv) -> None:
        parser = cli.Parser(prog=f"benchmarks/{name}.py", description=body.__doc__, package="deep_compression")
        parser.add_argument("--repeats", type=cli.positive_int, default=repeats, help="times each side is measured")
        parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
        args = parser.parse_args(argv)
        rows = body(args)
        for row in rows:
            print(f"{row['what']}: {row['ratio']:.2f} against {row['against']} (wanted: {row['floor']})")
        if args.json:
            environment = describe_environment("cpu")
            write_json(args.json, {"benchmark": name, "rows": rows, "environment": environment})

    sys.exit(cli.run(run))
