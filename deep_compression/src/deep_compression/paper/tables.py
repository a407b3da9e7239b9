"""Tables of the README from ``results/*.json``: ``python -m deep_compression.paper.tables``; ``--check`` only compares."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import tables_command
from common.runs import read_json
from deep_compression.paper import select_settings
from deep_compression.paper.published import LAYERS, ORIGINAL_VGG19, TABLE_1, TITLES, TOP5
from deep_compression.paper.settings import HOME

RESULTS, README = HOME / "results", HOME / "README.md"
SOURCES = {
    "paper": "this repository, paper's densities",
    "validated": "this repository, validated",
    "smallest": "this repository, smallest",
}
NONE = "No result files yet."


def mnist_table() -> str:
    """Format one line per network and settings, with means and standard deviations over the seeds, after the paper's line."""
    found = [read_json(path) for path in sorted(RESULTS.glob("mnist-*.json"))]
    header = (
        "network",
        "source",
        "seeds",
        "dense error (%)",
        "error (%)",
        "error change (points)",
        "remaining weights (%)",
        "dense bytes",
        "file bytes",
        "compression ratio",
    )
    lines: list[tuple[str, ...]] = []
    for arch, (before, after, dense, small, ratio) in TABLE_1.items():
        runs = {name: [r for r in found if r["arch"] == arch and r["settings"] == name] for name in SOURCES}
        if not any(runs.values()):
            continue
        title = TITLES[arch]
        lines.append(
            (
                title,
                "paper (published)",
                "",
                f"{before:.2f}",
                f"{after:.2f}",
                f"{after - before:+.2f}",
                "8",
                f"{dense} KB",
                f"{small} KB",
                f"{ratio}x",
            )
        )
        lines += [_mnist_line(title, SOURCES[name], those) for name, those in runs.items() if those]
    return markdown_table(header, lines) if lines else NONE


def _mnist_line(title: str, source: str, runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return (
        title,
        source,
        str(len(runs)),
        _mean([100 - r["baseline"]["top1"] for r in runs], 2),
        _mean([100 - r["compressed"]["top1"] for r in runs], 2),
        _mean([r["baseline"]["top1"] - r["compressed"]["top1"] for r in runs], 2, "+"),
        _mean([r["report"]["total"]["density"] for r in runs], 2),
        f"{runs[0]['weight_bytes']:,}",
        _mean([r["compressed"]["bytes"] for r in runs], 0),
        _mean([r["rate"] for r in runs], 1) + "x",
    )


def _mean(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Format mean and sample standard deviation."""
    text = f"{round(statistics.mean(values), digits) + 0.0:{sign},.{digits}f}"  # + 0.0: no negative zero
    return text + (f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else "")


def mnist_findings() -> str:
    """Summarize the accuracy loss on MNIST. A mean within two standard errors of zero is not distinguished from zero."""
    found = [read_json(path) for path in sorted(RESULTS.glob("mnist-*.json"))]
    lines = []
    for arch in TABLE_1:
        runs = [[r for r in found if r["arch"] == arch and r["settings"] == name] for name in SOURCES]
        losses = [_loss(those) for those in runs if len(those) > 1]
        if losses:
            lines.append(f"- {TITLES[arch]}, compared with its dense network: {'; '.join(losses)}.")
    return "\n".join(lines) if lines else NONE


def _loss(runs: Sequence[dict[str, Any]]) -> str:
    changes = [r["baseline"]["top1"] - r["compressed"]["top1"] for r in runs]
    mean, error = statistics.mean(changes), statistics.stdev(changes) / len(changes) ** 0.5
    smaller = f"{statistics.mean(r['rate'] for r in runs):.1f} times smaller"
    if mean <= 0:
        return f"{smaller} without loss"
    if mean < 2 * error:
        return f"{smaller} at a loss of {mean:.2f} points, within two standard errors of zero ({len(changes)} seeds)"
    return f"{smaller} at a loss of {mean:.2f} points"


def cifar_findings() -> str:
    """State the largest compression ratio at which each network loses less than half a point."""
    lines, runs = [], cifar_runs()
    for arch in dict.fromkeys(run["arch"] for run in runs):
        found = [(r["rate"], r["baseline"]["top1"] - r["compressed"]["top1"]) for r in runs if r["arch"] == arch]
        ratio, drop = max((one for one in found if one[1] < 0.5), default=(None, None))
        title = TITLES.get(arch, arch)
        if ratio:
            lines.append(f"- {title}: {ratio:.1f}x is the largest ratio with a loss below half a point ({drop:.2f}).")
        else:
            lines.append(f"- {title}: the loss is at least half a point at all ratios.")
    return "\n".join(lines) if lines else NONE


def published_table() -> str:
    """Format published results of networks that were not run here: ImageNet (paper) and VGG-19 (original code's README)."""
    lines = []
    for network, (before, after) in TOP5.items():
        top1, small_top1, dense, small, ratio = TABLE_1[network]
        errors = (f"{top1:.2f} / {before:.2f}", f"{small_top1:.2f} / {after:.2f}")
        sizes = (f"{dense / 1000:g} MB", f"{small / 1000:g} MB", f"{ratio}x")
        lines.append((f"{network}, ImageNet", "paper (published)", "pruned, quantized, encoded", *errors, *sizes))
    dense_error = f"{100 - ORIGINAL_VGG19['dense']:.2f}"
    lines += [
        ("VGG-19, CIFAR-10", "original code (published)", stage, dense_error, f"{100 - top1:.2f}", "", "", "")
        for stage, top1 in ORIGINAL_VGG19.items()
        if stage != "dense"
    ]
    header = ("network", "source", "stage", "dense error (top-1 / top-5, %)", "error (%)", "dense size", "size")
    return markdown_table((*header, "compression ratio"), lines)


def choice_table() -> str:
    """Format the candidates that were evaluated on held-out training images, by network."""
    files = [RESULTS / f"choice-{arch}.json" for arch in TABLE_1]
    tables = [
        f"{TITLES[r['arch']]}:\n\n{select_settings.table(r)}" for r in map(read_json, filter(Path.is_file, files))
    ]
    return "\n".join(tables) if tables else NONE


def layer_tables(arch: str, settings: str) -> str:
    """Format the paper's table of one network, with this repository's result for seed 0 below each line."""
    path = RESULTS / f"mnist-{arch}-{settings}-seed0.json"
    if not path.is_file():
        return NONE
    report = read_json(path)["report"]
    header = (
        "layer",
        "source",
        "weights",
        "remaining weights (P, %)",
        "weight bits (P+Q)",
        "(P+Q+H)",
        "index bits (P+Q)",
        "(P+Q+H)",
        "compressed size (P+Q, %)",
        "(P+Q+H)",
    )
    published = LAYERS[arch]
    lines = []
    for row in [*report["layers"], report["total"]]:
        name = row["name"]
        if name in published:
            lines.append((name, "paper (published)", *published[name]))
        bits = (
            f"{row['weight_bits']:.1f}",
            f"{row['weight_bits_coded']:.1f}",
            f"{row['index_bits']:.1f}",
            f"{row['index_bits_coded']:.1f}",
        )
        sizes = (f"{row['rate_shared']:.2f}", f"{row['rate_coded']:.2f}")
        lines.append((name, "this repository", f"{row['weights']:,}", f"{row['density']:.1f}", *bits, *sizes))
    return markdown_table(header, lines)


def cifar_runs() -> list[dict[str, Any]]:
    """Read the result files of CIFAR-10, sorted by network, density and bits."""
    found = [read_json(path) for path in sorted(RESULTS.glob("cifar10-*.json"))]
    return sorted(found, key=lambda run: (run["arch"], -run["density"], -run["bits"]))


def cifar_table() -> str:
    """Format accuracy and file size of the CIFAR-10 networks."""
    header = (
        "network",
        "remaining weights (%)",
        "bits",
        "epochs after pruning",
        "centroid epochs",
        "dense top-1 (%)",
        "top-1 (%)",
        "loss (points)",
        "dense bytes",
        "file bytes",
        "compression ratio",
    )
    lines = []
    for run in cifar_runs():
        dense, small = run["baseline"]["top1"], run["compressed"]["top1"]
        epochs = f"{run['epochs']}{' per density' if run.get('gradual') else ''}"
        lines.append(
            (
                TITLES.get(run["arch"], run["arch"]),
                f"{100 * run['density']:.0f}",
                run["bits"],
                epochs,
                run.get("quantize_epochs", 1),
                f"{dense:.2f}",
                f"{small:.2f}",
                f"{dense - small:.2f}",
                f"{run['weight_bytes']:,}",
                f"{run['compressed']['bytes']:,}",
                f"{run['rate']:.1f}x",
            )
        )
    return markdown_table(header, lines) if lines else NONE


TABLES: dict[str, Callable[[], str]] = {
    "deep_compression.mnist": mnist_table,
    "deep_compression.mnist.said": mnist_findings,
    "deep_compression.lenet300_100": lambda: layer_tables("lenet300_100", "paper"),
    "deep_compression.lenet5": lambda: layer_tables("lenet5", "paper"),
    "deep_compression.published": published_table,
    "deep_compression.choice": choice_table,
    "deep_compression.cifar10": cifar_table,
    "deep_compression.cifar10.said": cifar_findings,
    "deep_compression.speed": lambda: speed_table(RESULTS),
}


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command("deep_compression", README, TABLES, argv)


if __name__ == "__main__":
    sys.exit(main())
