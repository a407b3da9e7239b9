"""Processor seconds until a command says something, against ``import torch``: -h and mistakes, and work that needs a network.

    python benchmarks/startup.py [--repeats 5] [--json results/speed-startup.json]

Commands of the packages that are installed; each in a process of its own, in turns. Byte code is compiled before (first call).
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common.reporting.benchmark import BenchmarkValue, run_benchmark

ROOT = Path(__file__).resolve().parents[2]
TORCH = [sys.executable, "-c", "import torch"]
LIGHT = {
    "common.train -h": ("common", ["-m", "common.train", "-h"]),
    "common.train --epochs x": ("common", ["-m", "common.train", "--epochs", "x"]),
    "compare -h": ("compare", ["-m", "compare", "-h"]),
    "decore: prune_model.py -h": ("decore", ["prune_model.py", "-h"]),
    "deep_compression -h": ("deep_compression", ["-m", "deep_compression", "-h"]),
    "model_preserving_id: main.py -h": ("model_preserving_id", ["main.py", "-h"]),
    "redundancy_graph: prune_cifar10.py -h": ("redundancy_graph", ["prune_cifar10.py", "-h"]),
    "rewarded_metapruning: search.py -h": ("rewarded_metapruning", ["search.py", "-h"]),
}
# Work that ends with a line about what is missing, once everything is imported.
HEAVY = {
    "common.train, unknown data": ("common", ["-m", "common.train", "--dataset", "nowhere"]),
    "compare, unknown data": ("compare", ["-m", "compare", "--dataset", "nowhere", "--out", "/tmp/nowhere"]),
    "decore: prune_model.py, unknown data": ("decore", ["prune_model.py", "--dataset", "nowhere"]),
    "model_preserving_id: main.py, unknown data": ("model_preserving_id", ["main.py", "--dataset", "nowhere"]),
    "redundancy_graph: prune_cifar10.py, unknown data": (
        "redundancy_graph",
        ["prune_cifar10.py", "--dataset", "nowhere"],
    ),
    "rewarded_metapruning: search.py, unknown data": ("rewarded_metapruning", ["search.py", "--dataset", "nowhere"]),
}


def seconds(words: list[str], folder: Path) -> float:
    """User and system time of a process and its children."""
    before = os.times()
    subprocess.run(words, cwd=folder, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(repeats: int):
    """Start-up: -h and mistakes in at most half a second of processor time, other commands in at most 1.25 x import torch."""
    sides = {"import torch": (ROOT, TORCH)}
    for name, (folder, words) in {**LIGHT, **HEAVY}.items():
        sides[name] = (ROOT / folder, [sys.executable, *words])
    for place, words in sides.values():
        seconds(words, place)
    series: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (place, words) in sides.items():
            series[name].append(1000 * seconds(words, place))
    medians = {name: statistics.median(values) for name, values in series.items()}
    slowest = max(LIGHT, key=medians.__getitem__)
    heaviest = max(HEAVY, key=medians.__getitem__)
    print(json.dumps({name: round(value) for name, value in medians.items()}, indent=2))
    return series, [
        BenchmarkValue(
            f"start of `{slowest}`, the slowest of {len(LIGHT)}",
            "nothing: processor time",
            medians[slowest] / 1000,
            0.5,
            True,
            " s",
        ),
        BenchmarkValue(
            f"start of `{heaviest}`", "`import torch`", medians[heaviest] / medians["import torch"], 1.25, True
        ),
    ]


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, repeats=5))
