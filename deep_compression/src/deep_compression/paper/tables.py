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
from deep_compression.paper.nncodec_table import NONE, files_findings, files_table
from deep_compression.paper.published import (
    LAYERS,
    ORIGINAL_VGG19,
    TABLE_1,
    TABLE_6,
    TABLE_7,
    TABLES_OF_PAPER,
    TITLES,
    TOP5,
)
from deep_compression.paper.settings import HOME

RESULTS, README = HOME / "results", HOME / "README.md"
SOURCES = {
    "paper": "this repository, paper",
    "validated": "this repository, extended: validated",
    "smallest": "this repository, extended: smallest",
}
ACCEPTED = 0.1  # points of accuracy


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
        "bytes of the weights",
        "compression ratio",
        "file bytes",
        "compression ratio of the file",
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
                "paper (published), table 1",
                "",
                f"{before:.2f}",
                f"{after:.2f}",
                f"{after - before:+.2f}",
                "8",
                f"{dense} KB",
                f"{small} KB",
                f"{ratio}x",
                "",
                "",
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
        _mean([_bytes_of_weights(r) for r in runs], 0),
        _mean([_ratio(r) for r in runs], 1) + "x",
        _mean([r["compressed"]["bytes"] for r in runs], 0),
        _mean([r["rate"] for r in runs], 1) + "x",
    )


def _bytes_of_weights(run: dict[str, Any]) -> int:
    """Return the bytes of the weights, as the paper counts: indices, positions, codebooks and code tables."""
    return sum(layer["bytes"] for layer in run["report"]["layers"] if not layer["name"].endswith(".bias"))


def _ratio(run: dict[str, Any]) -> float:
    return run["weight_bytes"] / _bytes_of_weights(run)


def _mean(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Format mean and sample standard deviation."""
    text = f"{round(statistics.mean(values), digits) + 0.0:{sign},.{digits}f}"  # + 0.0: no negative zero
    return text + (f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else "")


def mnist_findings() -> str:
    """Summarize ratio and change of the error on MNIST, with one verdict: whether the mean change is at most ACCEPTED."""
    found = [read_json(path) for path in sorted(RESULTS.glob("mnist-*.json"))]
    lines = []
    for arch in TABLE_1:
        runs = [[r for r in found if r["arch"] == arch and r["settings"] == name] for name in SOURCES]
        lines += [
            f"- {TITLES[arch]}, {SOURCES[those[0]['settings']].removeprefix('this repository, ')}: {_loss(those)}."
            for those in runs
            if len(those) > 1
        ]
        papers = [those for those in runs[:1] if those]
        lines += [f"- {TITLES[arch]}, published: {_published_sum(arch, those[0]['report'])}." for those in papers]
    return "\n".join(lines) if lines else NONE


def _published_sum(arch: str, report: dict[str, Any]) -> str:
    """Compare the sum of the published sizes of the layers with the published total, which differs from it."""
    weights = {layer["name"]: layer["weights"] for layer in report["layers"] if layer["name"] in LAYERS[arch]}
    size = sum(number * LAYERS[arch][name][-1] for name, number in weights.items()) / sum(weights.values())
    return (
        f"the layers add up to {size:.2f} % of the dense weights ({100 / size:.1f} times smaller), the published total is"
        f" {LAYERS[arch]['total'][-1]:.2f} % ({TABLE_1[arch][-1]} times)"
    )


def _loss(runs: Sequence[dict[str, Any]]) -> str:
    changes = [r["baseline"]["top1"] - r["compressed"]["top1"] for r in runs]
    mean = round(statistics.mean(changes), 2)
    verdict = f"{'at most' if mean <= ACCEPTED else 'more than'} {ACCEPTED} points"
    return f"weights {_mean([_ratio(r) for r in runs], 1)} times smaller; the error changes by {_mean(changes, 2, '+')}, {verdict}"


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
    """Format published results of networks that were not run here: table 1 of the paper on ImageNet."""
    lines = []
    for arch, (before, after) in TOP5.items():
        top1, small_top1, dense, small, ratio = TABLE_1[arch]
        errors = (f"{top1:.2f} / {before:.2f}", f"{small_top1:.2f} / {after:.2f}")
        sizes = (f"{dense / 1000:g} MB", f"{small / 1000:g} MB", f"{ratio}x")
        lines.append((f"{TITLES[arch]}, ImageNet", "paper (published), table 1", *errors, *sizes))
    header = ("network", "source", "dense error (top-1 / top-5, %)", "error (%)", "dense size", "size")
    return markdown_table((*header, "compression ratio"), lines)


def vgg19_table() -> str:
    """Format the table of the original code's README: top-1 by number k of shared values."""
    cells = [f"{top1:.2f}" if top1 else "(not published)" for top1 in ORIGINAL_VGG19.values()]
    return markdown_table(("source", *ORIGINAL_VGG19), [("original repository (published)", *cells)])


def bits_table() -> str:
    """Format table 6 of the paper: AlexNet's errors by bits per weight."""
    lines = [
        (bits, f"{top1:.2f}", f"{top5:.2f}", *("" if more is None else f"{more:+.2f}" for more in changes))
        for bits, (top1, top5, *changes) in TABLE_6.items()
    ]
    header = ("bits of convolutions / linear layers", "top-1 error (%)", "top-5 error (%)")
    return markdown_table((*header, "top-1 error change", "top-5 error change"), lines)


def methods_table() -> str:
    """Format table 7 of the paper: other methods on AlexNet."""
    lines = [
        (name, f"{top1:.2f}", "" if top5 is None else f"{top5:.2f}", f"{size:g} MB", f"{ratio:g}x")
        for name, (top1, top5, size, ratio) in TABLE_7.items()
    ]
    return markdown_table(("method", "top-1 error (%)", "top-5 error (%)", "parameters", "compression ratio"), lines)


def choice_table() -> str:
    """Format the candidates that were evaluated on held-out training images, by network."""
    files = [RESULTS / f"choice-{arch}.json" for arch in TABLE_1]
    tables = [
        f"{TITLES[r['arch']]}:\n\n{select_settings.table(r)}" for r in map(read_json, filter(Path.is_file, files))
    ]
    return "\n".join(tables) if tables else NONE


LAYER_HEADER = (
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
NUMBERS = (  # key of a layer of a report, format
    ("weights", ",.0f"),
    ("density", ".1f"),
    ("weight_bits", ".1f"),
    ("weight_bits_coded", ".1f"),
    ("index_bits", ".1f"),
    ("index_bits_coded", ".1f"),
    ("rate_shared", ".2f"),
    ("rate_coded", ".2f"),
)


def layer_tables(arch: str) -> str:
    """Format the paper's table of one network, with the paper variant's mean over the seeds below each line."""
    found = sorted(RESULTS.glob(f"mnist-{arch}-paper-seed*.json"))
    reports = [read_json(path)["report"] for path in found]
    lines: list[tuple[Any, ...]] = []
    for name, row in LAYERS[arch].items():
        lines.append((name, f"paper (published), table {TABLES_OF_PAPER[arch]}", *row))
        rows = [next(one for one in [*r["layers"], r["total"]] if one["name"] == name) for r in reports]
        if rows:
            means = [f"{statistics.mean(one[key] for one in rows):{form}}" for key, form in NUMBERS]
            lines.append((name, "this repository, paper", *means))
    return markdown_table(LAYER_HEADER, lines)


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
    "deep_compression.lenet300_100": lambda: layer_tables("lenet300_100"),
    "deep_compression.lenet5": lambda: layer_tables("lenet5"),
    "deep_compression.alexnet": lambda: layer_tables("alexnet"),
    "deep_compression.vgg16": lambda: layer_tables("vgg16_imagenet"),
    "deep_compression.published": published_table,
    "deep_compression.bits": bits_table,
    "deep_compression.methods": methods_table,
    "deep_compression.vgg19": vgg19_table,
    "deep_compression.choice": choice_table,
    "deep_compression.cifar10": cifar_table,
    "deep_compression.cifar10.said": cifar_findings,
    "deep_compression.files": lambda: files_table(RESULTS),
    "deep_compression.files.said": lambda: files_findings(RESULTS),
    "deep_compression.speed": lambda: speed_table(RESULTS),
}


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command("deep_compression", README, TABLES, argv)


if __name__ == "__main__":
    sys.exit(main())
