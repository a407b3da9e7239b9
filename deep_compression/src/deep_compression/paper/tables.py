"""The tables of the README, made from ``results/*.json``: ``python -m deep_compression.paper.tables``; ``--check`` writes nothing."""

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
from deep_compression.paper import choice
from deep_compression.paper.published import LAYERS, SEED_VGG19, TABLE_1, TITLES, TOP5
from deep_compression.paper.settings import HOME

RESULTS, README = HOME / "results", HOME / "README.md"
ROWS = {
    "paper": "ours, the paper's densities",
    "lossless": "ours, chosen on held-out pictures",
    "best": "ours, smallest",
}
NONE = "No result files yet."


def mnist_table() -> str:
    """One line per network and row: means and deviations over the seeds, the paper's line beside ours."""
    found = [read_json(path) for path in sorted(RESULTS.glob("mnist-*.json"))]
    header = (
        "network",
        "row",
        "seeds",
        "dense error %",
        "error %",
        "change",
        "weights left %",
        "dense bytes",
        "file bytes",
        "rate",
    )
    lines: list[tuple[str, ...]] = []
    for arch, (before, after, dense, small, rate) in TABLE_1.items():
        runs = {row: [r for r in found if r["arch"] == arch and r["row"] == row] for row in ROWS}
        if not any(runs.values()):
            continue
        title = TITLES[arch]
        lines.append(
            (
                title,
                "published",
                "",
                f"{before:.2f}",
                f"{after:.2f}",
                f"{after - before:+.2f}",
                "8",
                f"{dense} KB",
                f"{small} KB",
                f"{rate}x",
            )
        )
        lines += [_mnist_line(title, ROWS[row], those) for row, those in runs.items() if those]
    return markdown_table(header, lines) if lines else NONE


def _mnist_line(title: str, row: str, runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return (
        title,
        row,
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
    """Mean and sample deviation."""
    text = f"{round(statistics.mean(values), digits) + 0.0:{sign},.{digits}f}"  # + 0.0: no negative zero
    return text + (f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else "")


def mnist_findings() -> str:
    """What the MNIST rows say of loss, by a rule: a mean within two of its standard errors of nothing is not told from it."""
    found = [read_json(path) for path in sorted(RESULTS.glob("mnist-*.json"))]
    lines = []
    for arch in TABLE_1:
        runs = [[r for r in found if r["arch"] == arch and r["row"] == row] for row in ROWS]
        said = [_loss(those) for those in runs if len(those) > 1]
        if said:
            lines.append(f"- {TITLES[arch]}, against its own dense network: {'; '.join(said)}.")
    return "\n".join(lines) if lines else NONE


def _loss(runs: Sequence[dict[str, Any]]) -> str:
    changes = [r["baseline"]["top1"] - r["compressed"]["top1"] for r in runs]
    mean, error = statistics.mean(changes), statistics.stdev(changes) / len(changes) ** 0.5
    rate = f"{statistics.mean(r['rate'] for r in runs):.1f} times smaller"
    if mean <= 0:
        return f"{rate} without loss"
    if mean < 2 * error:
        return f"{rate} at a loss that {len(changes)} seeds cannot tell from none ({mean:.2f} points)"
    return f"{rate} at a loss of {mean:.2f} points"


def cifar_findings() -> str:
    """The greatest rate at which each network loses less than half a point."""
    lines, runs = [], cifar_runs()
    for arch in dict.fromkeys(run["arch"] for run in runs):
        found = [(r["rate"], r["baseline"]["top1"] - r["compressed"]["top1"]) for r in runs if r["arch"] == arch]
        rate, drop = max((one for one in found if one[1] < 0.5), default=(None, None))
        end = f"at {rate:.1f} times smaller ({drop:.2f}), at no greater rate" if rate else "at no rate that was tried"
        lines.append(f"- {TITLES.get(arch, arch)} loses less than half a point {end}.")
    return "\n".join(lines) if lines else NONE


def published_table() -> str:
    """What was published of networks that were not run here: ImageNet by the paper, VGG-19 by the original code's README."""
    lines = []
    for network, (before, after) in TOP5.items():
        top1, small_top1, dense, small, rate = TABLE_1[network]
        errors = (f"{top1:.2f} / {before:.2f}", f"{small_top1:.2f} / {after:.2f}")
        sizes = (f"{dense / 1000:g} MB", f"{small / 1000:g} MB", f"{rate}x")
        lines.append((f"{network}, ImageNet", "published (paper)", "pruned, shared, coded", *errors, *sizes))
    dense_error = f"{100 - SEED_VGG19['dense']:.2f}"
    lines += [
        ("VGG-19, CIFAR-10", "published (original code)", stage, dense_error, f"{100 - top1:.2f}", "", "", "")
        for stage, top1 in SEED_VGG19.items()
        if stage != "dense"
    ]
    header = ("network", "row", "stage", "dense error % (top-1 / top-5)", "error %", "dense size", "size", "rate")
    return markdown_table(header, lines)


def choice_table() -> str:
    """What was tried on held-out training pictures, network after network."""
    files = [RESULTS / f"choice-{arch}.json" for arch in TABLE_1]
    tables = [f"{TITLES[r['arch']]}:\n\n{choice.table(r)}" for r in map(read_json, filter(Path.is_file, files))]
    return "\n".join(tables) if tables else NONE


def layer_tables(arch: str, row: str) -> str:
    """The paper's table of one network, ours of the first seed beneath each of its lines."""
    path = RESULTS / f"mnist-{arch}-{row}-seed0.json"
    if not path.is_file():
        return NONE
    report = read_json(path)["report"]
    header = (
        "layer",
        "",
        "weights",
        "weights% (P)",
        "weight bits (P+Q)",
        "(P+Q+H)",
        "index bits (P+Q)",
        "(P+Q+H)",
        "rate % (P+Q)",
        "(P+Q+H)",
    )
    published = LAYERS[arch]
    lines = []
    for ours in [*report["layers"], report["total"]]:
        if ours["name"] in published:
            lines.append((ours["name"], "published", *published[ours["name"]]))
        bits = (
            f"{ours['weight_bits']:.1f}",
            f"{ours['weight_bits_coded']:.1f}",
            f"{ours['index_bits']:.1f}",
            f"{ours['index_bits_coded']:.1f}",
        )
        rates = (f"{ours['rate_shared']:.2f}", f"{ours['rate_coded']:.2f}")
        lines.append((ours["name"], "ours", f"{ours['weights']:,}", f"{ours['density']:.1f}", *bits, *rates))
    return markdown_table(header, lines)


def cifar_runs() -> list[dict[str, Any]]:
    """The result files of CIFAR-10, by network, density and bits."""
    found = [read_json(path) for path in sorted(RESULTS.glob("cifar10-*.json"))]
    return sorted(found, key=lambda run: (run["arch"], -run["density"], -run["bits"]))


def cifar_table() -> str:
    """Accuracy against file size of the CIFAR-10 networks."""
    header = (
        "network",
        "weights left",
        "bits",
        "epochs after pruning",
        "of centroids",
        "dense top-1",
        "top-1",
        "drop",
        "dense bytes",
        "file bytes",
        "rate",
    )
    lines = []
    for run in cifar_runs():
        dense, small = run["baseline"]["top1"], run["compressed"]["top1"]
        epochs = f"{run['epochs']}{' per density' if run.get('gradual') else ''}"
        lines.append(
            (
                TITLES.get(run["arch"], run["arch"]),
                f"{100 * run['density']:.0f} %",
                run["bits"],
                epochs,
                run.get("share_epochs", 1),
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
