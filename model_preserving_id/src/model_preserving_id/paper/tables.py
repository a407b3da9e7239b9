"""Generate the README's tables from ``results/*.json``.

python -m model_preserving_id.paper.tables --add RUN_FOLDER   copy a finished run to results/run-<folder's name>.json
python -m model_preserving_id.paper.tables                    rewrite the README's tables and the plot of the curve
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import save_run, tables_command
from common.runs import read_json
from model_preserving_id.paper.published import MISSING_CLASS, PUBLISHED
from model_preserving_id.paper.settings import HOME, RATIO_LABELS
from model_preserving_id.settings import PACKAGE, ChannelPruningOptions

RESULTS = HOME / "results"
README = HOME / "README.md"
CURVE = RESULTS / "curve-resnet56.png"
NAMES = {
    "paper": "ID (paper)",
    "id-weights": "ID, our widths, re-solved weights †",
    "l1-weights": "largest L1 norm, re-solved weights †",
    "random-weights": "random channels, re-solved weights †",
    "id-t": "ID with re-solved T, our widths †",
    "id": "ID with T, our widths †",
    "without-t": "ID without T, our widths †",
    "l1": "largest L1 norm",
    "random": "random channels",
    "group-norm": "torch-pruning (group norm, its own widths)",
}
# the plot: color is the channel selection, line style the reconstruction (dotted: none)
COLOR = {"paper": 4, "id": 0, "without": 0, "l1": 1, "random": 2, "group": 3}  # indices into common.plots.COLORS
LINE = {"paper": "--", "id": "--", "id-t": "-.", "id-weights": "-", "l1-weights": "-", "random-weights": "-"}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {  # rows of benchmarks/resnet56_choices.py: description and settings
    "base": ("500 images, Frobenius score, one shot, residual streams not pruned", {}),
    "score-pivot": ("score: pivots (the paper)", {"score": "pivot"}),
    "score-output-change": ("score: change of the outputs", {"score": "output-change"}),
    "frac": ("same fraction in every layer", {"method": "frac"}),
    "eps": ("same eps in every layer", {"method": "eps"}),
    "iditer": ("iterative, statistics re-estimated after every 2 % of the MACs", {"method": "iditer"}),
    "images-100": ("100 images", {"images": 100}),
    "images-2000": ("2000 images", {"images": 2000}),
    "images-5000": ("5000 images", {"images": 5000}),
    "residual-exact": ("residual streams pruned where exact", {"residual": "exact"}),
    "residual-conv": ("residual streams pruned, shortcuts as 1x1 convolutions", {"residual": "conv"}),
    "recalibrate-bn": ("recalibrated batch-norm statistics", {"recalibrate_bn": True}),
    "round-8": ("widths rounded to multiples of 8", {"round_to": 8}),
    "t": ("re-solved T", {"compensation": "t"}),
    "weights": ("re-solved weights", {"compensation": "weights"}),
    "best": ("score: change of the outputs, re-solved weights", {"score": "output-change", "compensation": "weights"}),
    "best-200": (
        "as above, weights re-solved with 200 images",
        {"score": "output-change", "compensation": "weights", "reconstruction_images": 200},
    ),
    "best-2000": (
        "as above, weights re-solved with 2000 images",
        {"score": "output-change", "compensation": "weights", "reconstruction_images": 2000},
    ),
    "best-recalibrate-bn": (
        "as above, recalibrated batch-norm statistics",
        {"score": "output-change", "compensation": "weights", "recalibrate_bn": True},
    ),
}


def curve_table() -> str:
    """Tabulate top-1 / agreement of every method at every target."""
    records = curve_records()
    if not records:
        return "No results yet: run `python benchmarks/resnet56_curve.py`."
    targets = sorted({record["target"] for record in records}, reverse=True)
    dense = next(record["dense_top1"] for record in records if "dense_top1" in record)
    rows = [["dense network", *([f"{dense:.2f} / 100.00"] * len(targets))]]
    for method, name in NAMES.items():
        found = {record["target"]: record for record in records if record["method"] == method}
        if found:
            cells = [f"{found[t]['top1']:.2f} / {found[t]['agreement']:.2f}" if t in found else "" for t in targets]
            rows.append([name, *cells])
    return markdown_table(["top-1 / agreement (%)", *(f"{100 * t:g} % of the MACs" for t in targets)], rows)


def curve_records() -> list[dict[str, Any]]:
    """Return the points of benchmarks/resnet56_curve.py, and as ``paper`` the runs of the paper's method on the same network."""
    runs = [run for run in _read("run-*.json") if run["arch"] == "resnet56" and run["dataset"] == "cifar10"]
    paper = [
        {"method": "paper", "target": run["options"]["target_macs"], **run["compressed"]}
        for run in runs
        if run["options"]["method"] == "iditer" and not run["options"]["score"] and pruning_of(run).variant == "paper"
    ]
    return [*_read("curve-resnet56-*.json"), *paper]


def pruning_of(run: Mapping[str, Any]) -> ChannelPruningOptions:
    """Return the pruning options of a run of main.py."""
    names = {field.name for field in dataclasses.fields(ChannelPruningOptions)}  # type: ignore[arg-type]
    return ChannelPruningOptions(**{name: value for name, value in run["options"].items() if name in names})


def published_table() -> str:
    """List the published values with their sources."""
    return markdown_table(["source", "network and data", "published result"], [list(row) for row in PUBLISHED])


def choices_table() -> str:
    """Tabulate agreement and change of the outputs by setting, measured on held-out training images."""
    records = _read("choice-*.json")
    if not records:
        return "No results yet: run `python benchmarks/resnet56_choices.py`."
    targets = sorted({record["target"] for record in records}, reverse=True)
    rows = [["dense network", *(["100.00 / 0.000"] * len(targets))]]
    for name, (title, _) in CHOICES.items():
        found = {record["target"]: record for record in records if record["row"] == name}
        if found:
            cells = [
                f"{found[t]['agreement']:.2f} / {found[t]['output_change']:.3f}" if t in found else "" for t in targets
            ]
            rows.append([title, *cells])
    return markdown_table(
        ["agreement (%) / change of the outputs", *(f"{100 * t:g} % of the MACs" for t in targets)], rows
    )


def runs_table() -> str:
    """Tabulate finished runs of main.py."""
    runs = _read("run-*.json")
    if not runs:
        return "No results yet: add a finished run with `python -m model_preserving_id.paper.tables --add RUN_FOLDER`."
    rows = []
    for run in sorted(
        runs, key=lambda run: (pruning_of(run).variant == "extended", run["arch"], -run["compressed"]["macs"])
    ):
        dense, small, pruning = run["baseline"], run["compressed"], pruning_of(run)
        selection = f" --selection {pruning.channel_selection}" if pruning.method == "budget" else ""
        settings = f"`--method {pruning.method} --score {pruning.criterion}{selection} --compensation {pruning.reconstruction}`"
        remaining = [f"{100 * small[cost] / dense[cost]:.2f}" for cost in ("macs", "params")]
        seconds = f"{run['pruning_cpu_seconds']:.0f}" if "pruning_cpu_seconds" in run else ""
        rows.append(
            [
                run["arch"],
                pruning.variant,
                settings,
                run["images"],
                f"{dense['top1']:.2f}",
                f"{small['top1']:.2f}",
                f"{small['agreement']:.2f}",
                *remaining,
                seconds,
            ]
        )
    header = [
        "network",
        "variant",
        "settings",
        "calibration images",
        "dense top-1 (%)",
        "top-1 before fine-tuning (%)",
        "agreement (%)",
        "remaining MACs (%)",
        "remaining params (%)",
        "pruning time (CPU s)",
    ]
    return markdown_table(header, rows)


def wide_table() -> str:
    """Tabulate the three errors and the accuracies at some widths of the wide layer: Fashion-MNIST, else MNIST."""
    found = [RESULTS / f"wide-{name}.json" for name in ("fashion-mnist", "mnist")]
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        return "No results yet: run `python -m model_preserving_id.paper.experiments.wide`."
    record = read_json(file)
    points = record["points"]
    shown = points[:: max(1, len(points) // 9)]
    shown = shown if shown[-1] is points[-1] else [*shown, points[-1]]
    rows = [
        [
            p["k"],
            *(f"{p[name]:.2e}" for name in ("sigma", "frobenius", "pivot")),
            *(f"{p[name]['top1']:.2f}" for name in record["dense"]),
            f"{p['test']['agreement']:.2f}",
        ]
        for p in shown
    ]
    rows.append(["dense", "", "", "", *(f"{record['dense'][name]:.2f}" for name in record["dense"]), ""])
    header = [
        "k",
        "σ(k+1)/σ(1)",
        "‖R₂₂‖/‖R‖",
        "r(k+1,k+1)/r(1,1)",
        *(f"{name} top-1 (%)" for name in record["dense"]),
        "test agreement (%)",
    ]
    return markdown_table(header, rows)


def missing_class_table() -> str:
    """Tabulate top-1, agreement, the missing class and the other classes by remaining MACs."""
    files = sorted(RESULTS.glob("missing-class-*.json"))
    if not files:
        return "No results yet: run `python -m model_preserving_id.paper.experiments.missing_class`."
    rows = []
    for record in map(read_json, files):
        missing = record["without_class"]
        for p in record["points"]:
            others = [value for i, value in enumerate(p["per_class"]) if i != missing]
            cells = [p["top1"], p["agreement"], p["per_class"][missing], sum(others) / len(others), min(others)]
            rows.append(
                [f"{record['arch']}, this repository", f"{p['macs_left']:.3f}", "", *(f"{cell:.2f}" for cell in cells)]
            )
    for iteration, remaining, top1, agreement, *classes in MISSING_CLASS:
        published = ("", f"{remaining:.3f}", f"{top1:.2f}", f"{agreement:.2f}", *(f"{value:.1f}" for value in classes))
        rows.append([f"vgg16, original repository (published), iteration {iteration}", *published])
    return markdown_table(
        [
            "network",
            "remaining MACs",
            "remaining FLOPs",
            "top-1 before fine-tuning (%)",
            "agreement (%)",
            "missing class (%)",
            "mean of the other classes (%)",
            "worst other class (%)",
        ],
        rows,
    )


def ratios_table() -> str:
    """Tabulate top-1 / agreement by method and fraction of the parameters."""
    files = sorted(RESULTS.glob("ratios-*.json"))
    if not files:
        return "No results yet: run `python -m model_preserving_id.paper.experiments.ratios`."
    records = [read_json(file) for file in files]
    points = [point for record in records for point in record["points"]]
    ratios = sorted({p["ratio"] for p in points}, reverse=True)
    rows = [["dense network", *([f"{records[0]['dense_top1']:.2f} / 100.00"] * len(ratios))]]
    for method in [method for method in RATIO_LABELS if any(p["method"] == method for p in points)]:
        found = {p["ratio"]: p for p in points if p["method"] == method}
        cells = [
            f"{found[r]['top1']:.2f} / {found[r]['agreement']:.2f}" if "top1" in found.get(r, {}) else "–"
            for r in ratios
        ]
        rows.append([RATIO_LABELS[method], *cells])
    return markdown_table(["top-1 / agreement (%)", *(f"{100 * r:g} % of the parameters" for r in ratios)], rows)


def conv3d_table() -> str:
    """Tabulate error and correlations of the 3-D network, every few steps."""
    files = sorted(RESULTS.glob("conv3d-*.json"))
    if not files:
        return "No results yet: run `python -m model_preserving_id.paper.experiments.conv3d`."
    record = read_json(files[0])
    names = {"dense": "unpruned network", "id": "ID", "l2": "smallest L2 norms removed"}
    rows = []
    for method, name in names.items():
        points = [p for p in record["points"] if p["method"] == method]
        for p in points[:: max(1, len(points) // 6)]:
            rows.append(
                [name, f"{p['macs_left']:.3f}", f"{p['rmse']:.3f}", f"{p['pearson']:.3f}", f"{p['spearman']:.3f}"]
            )
    return markdown_table([f"{record['data']} data", "remaining MACs", "test RMSE", "Pearson", "Spearman"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "model_preserving_id.published": published_table,
    "model_preserving_id.curve": curve_table,
    "model_preserving_id.choices": choices_table,
    "model_preserving_id.runs": runs_table,
    "model_preserving_id.wide": wide_table,
    "model_preserving_id.missing_class": missing_class_table,
    "model_preserving_id.ratios": ratios_table,
    "model_preserving_id.conv3d": conv3d_table,
    "model_preserving_id.speed": lambda: speed_table(RESULTS),
}


def plot_style(method: str) -> dict[str, str]:
    """Return color and line style of a method in the plot of the curve."""
    from common.plots import COLORS

    return {"color": COLORS[COLOR[method.split("-")[0]]], "linestyle": LINE.get(method, ":")}


def plot_curve(file: Path | str, records: Sequence[Mapping[str, Any]]) -> None:
    """Plot top-1 and agreement against the MACs, one line per method."""
    from common.plots import figure

    with figure(file, width=10, height=4.6, ncols=2) as (top1, agreement):
        for method, name in NAMES.items():
            found = sorted((r for r in records if r["method"] == method), key=lambda r: r["target"])
            style = {**plot_style(method), "label": name}
            for axes, metric in ((top1, "top1"), (agreement, "agreement")):
                if found:
                    axes.plot([100 * r["target"] for r in found], [r[metric] for r in found], marker=".", **style)
        top1.axhline(
            next(r["dense_top1"] for r in records if "dense_top1" in r), color="black", linewidth=0.8, linestyle="--"
        )
        for axes, label in ((top1, "top-1 (%)"), (agreement, "agreement (%)")):
            axes.set(xlabel="MACs (% of the dense network)", ylabel=label)
            axes.invert_xaxis()
        top1.set_title("ResNet-56, CIFAR-10, no fine-tuning (black: dense)", fontsize=10)
        agreement.figure.legend(*agreement.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)


def add_result(folder: Path | str, results: Path = RESULTS) -> Path:
    """Copy a finished run folder to one JSON file: see :func:`common.reporting.results.keep_run`."""
    return save_run(folder, PACKAGE, results)


def _read(pattern: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(RESULTS.glob(pattern))]


def draw() -> list[Path]:
    """Plot the curve and the comparison by parameters, if there are results."""
    drawn, records, ratios = [], curve_records(), _read("ratios-*.json")
    if records:
        plot_curve(CURVE, records)
        drawn.append(CURVE)
    if ratios:
        from model_preserving_id.paper.experiments.parameter_ratios import plot

        points = [point for record in ratios for point in record["points"]]
        plot({**ratios[0], "points": points}, RESULTS / "ratios-resnet20.png")
        drawn.append(RESULTS / "ratios-resnet20.png")
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(PACKAGE, README, TABLES, argv, add=add_result, draw=draw)


if __name__ == "__main__":
    sys.exit(main())
