"""Measure the processor time until a command prints: help and option errors, and work that needs torch (compared with ``import torch``).

    python benchmarks/startup.py [--repeats 5] [--json results/speed-startup.json]

Each command runs in its own process; the commands alternate. An untimed first call compiles byte code.
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
# Commands that fail on an unknown data set after importing torch.
HEAVY = {
    "common.train, unknown data set": ("common", ["-m", "common.train", "--dataset", "nowhere"]),
    "compare, unknown data set": ("compare", ["-m", "compare", "--dataset", "nowhere", "--out", "/tmp/nowhere"]),
    "decore: prune_model.py, unknown data set": ("decore", ["prune_model.py", "--dataset", "nowhere"]),
    "model_preserving_id: main.py, unknown data set": ("model_preserving_id", ["main.py", "--dataset", "nowhere"]),
    "redundancy_graph: prune_cifar10.py, unknown data set": (
        "redundancy_graph",
        ["prune_cifar10.py", "--dataset", "nowhere"],
    ),
    "rewarded_metapruning: search.py, unknown data set": (
        "rewarded_metapruning",
        ["search.py", "--dataset", "nowhere"],
    ),
}


def seconds(words: list[str], folder: Path) -> float:
    """Return the user and system time of a process and its children."""
    before = os.times()
    subprocess.run(words, cwd=folder, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(repeats: int):
    """Measure the start-up time: at most 0.5 s for -h and option errors, at most 1.25 x `import torch` for other commands."""
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
            f"processor time of `{slowest}`, the slowest of {len(LIGHT)} commands",
            "",
            medians[slowest] / 1000,
            0.5,
            True,
            " s",
        ),
        BenchmarkValue(
            f"processor time of `{heaviest.partition(',')[0]}` until it reports an unknown data set",
            "`import torch`",
            medians[heaviest] / medians["import torch"],
            1.25,
            True,
        ),
    ]


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, repeats=5))
