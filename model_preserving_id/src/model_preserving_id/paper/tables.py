"""The tables of the README, made from ``results/*.json``.

python -m model_preserving_id.paper.tables --add RUN_FOLDER   a finished run becomes results/run-<folder's name>.json
python -m model_preserving_id.paper.tables                    rewrite the README's tables and the picture of the curve
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import keep_run, tables_command
from common.runs import read_json
from model_preserving_id.paper.published import MISSING_CLASS
from model_preserving_id.paper.settings import HOME
from model_preserving_id.settings import PACKAGE

RESULTS = HOME / "results"
README = HOME / "README.md"
CURVE = RESULTS / "curve-resnet56.png"
NAMES = {
    "id-weights": "ID, weights solved anew (the default)",
    "id-t": "ID, T against the original (`--compensation t`)",
    "id": "ID with T (the paper, `--compensation none`)",
    "without-t": "ID's channels without T",
    "l1": "largest L1 norm",
    "l1-weights": "largest L1 norm, weights solved anew",
    "random": "random",
    "random-weights": "random, weights solved anew",
    "group-norm": "torch-pruning, group norm, its own widths",
}
# the picture: who chooses the channels, and how the next layer is told (dotted: not at all)
COLOR = {"id": 0, "without": 0, "l1": 1, "random": 2, "group": 3}  # indices into common.plots.COLORS
LINE = {"id": "--", "id-t": "-.", "id-weights": "-", "l1-weights": "-", "random-weights": "-"}
CHOICES: dict[
    str, tuple[str, dict[str, Any]]
] = {  # rows of benchmarks/resnet56_choices.py: what they show, and their settings
    "base": ("500 pictures, Frobenius score, one shot, inner channels", {}),
    "score-pivot": ("the paper's pivots as score", {"score": "pivot"}),
    "score-measured": ("the measured change of the outputs as score", {"score": "measured"}),
    "frac": ("the same fraction in every layer", {"how": "frac"}),
    "eps": ("the same eps in every layer", {"how": "eps"}),
    "iditer": ("layer by layer, statistics measured anew", {"how": "iditer"}),
    "pictures-100": ("100 pictures", {"pictures": 100}),
    "pictures-2000": ("2000 pictures", {"pictures": 2000}),
    "pictures-5000": ("5000 pictures", {"pictures": 5000}),
    "streams-exact": ("streams that shrink exactly, too", {"streams": "exact"}),
    "streams-conv": ("streams, too, through 1x1 convolutions", {"streams": "conv"}),
    "refresh-bn": ("batch-norm statistics measured anew", {"refresh_bn": True}),
    "round-8": ("widths in multiples of 8", {"round_to": 8}),
    "t": ("T against the original", {"compensation": "t"}),
    "weights": ("weights against the original", {"compensation": "weights"}),
    "best": ("measured score, weights against the original", {"score": "measured", "compensation": "weights"}),
    "best-200": (
        "the same, weights solved with 200 pictures",
        {"score": "measured", "compensation": "weights", "solve_with": 200},
    ),
    "best-2000": (
        "the same, weights solved with 2000 pictures",
        {"score": "measured", "compensation": "weights", "solve_with": 2000},
    ),
    "best-refresh-bn": (
        "the same, batch-norm statistics measured anew",
        {"score": "measured", "compensation": "weights", "refresh_bn": True},
    ),
}


def curve_table() -> str:
    """Top-1 / agreement of every method at every share of the MACs."""
    records = _read("curve-resnet56-*.json")
    if not records:
        return "Not measured yet: `python benchmarks/resnet56_curve.py` does it."
    targets = sorted({record["target"] for record in records}, reverse=True)
    rows = []
    for method, name in NAMES.items():
        found = {record["target"]: record for record in records if record["method"] == method}
        if found:
            cells = [f"{found[t]['top1']:.2f} / {found[t]['agreement']:.2f}" if t in found else "" for t in targets]
            rows.append([name, *cells])
    return markdown_table(["top-1 / agreement, %", *(f"{100 * t:g} % of the MACs" for t in targets)], rows)


def choices_table() -> str:
    """What each setting does, on training pictures that were held out: agreement and change of the outputs."""
    records = _read("choice-*.json")
    if not records:
        return "Not measured yet: `python benchmarks/resnet56_choices.py` does it."
    targets = sorted({record["target"] for record in records}, reverse=True)
    rows = []
    for name, (title, _) in CHOICES.items():
        found = {record["target"]: record for record in records if record["row"] == name}
        if found:
            cells = [
                f"{found[t]['agreement']:.2f} / {found[t]['output_change']:.3f}" if t in found else "" for t in targets
            ]
            rows.append([title, *cells])
    return markdown_table(
        ["agreement, % / change of the outputs", *(f"{100 * t:g} % of the MACs" for t in targets)], rows
    )


def runs_table() -> str:
    """Finished runs of main.py."""
    runs = _read("run-*.json")
    if not runs:
        return "Not measured yet: `python -m model_preserving_id.paper.tables --add RUN_FOLDER` makes a file of a finished run."
    rows = []
    for run in sorted(runs, key=lambda run: -run["compressed"]["macs"]):
        dense, small, options = run["baseline"], run["compressed"], run["options"]
        how = f"`--method {options['method']} --compensation {options['compensation']}`"
        left = [f"{100 * small[what] / dense[what]:.2f}" for what in ("macs", "params")]
        seconds = f"{run['pruning_cpu_seconds']:.0f}" if "pruning_cpu_seconds" in run else ""
        rows.append(
            [
                run["arch"],
                how,
                run["pictures"],
                f"{dense['top1']:.2f}",
                f"{small['top1']:.2f}",
                f"{small['agreement']:.2f}",
                *left,
                seconds,
            ]
        )
    header = [
        "network",
        "settings",
        "pictures",
        "dense top-1",
        "top-1",
        "agreement",
        "MACs %",
        "params %",
        "pruning, CPU s",
    ]
    return markdown_table(header, rows)


def wide_table() -> str:
    """Some widths of the wide layer: the three errors, accuracies."""
    if not (RESULTS / "wide-mnist.json").is_file():
        return "Not measured yet: `python -m model_preserving_id.paper.experiments.wide` does it."
    record = read_json(RESULTS / "wide-mnist.json")
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
        *(f"{name} top-1" for name in record["dense"]),
        "test agreement",
    ]
    return markdown_table(header, rows)


def missing_class_table() -> str:
    """Agreement, the missing class, and the others, along the way."""
    files = sorted(RESULTS.glob("missing-class-*.json"))
    if not files:
        return "Not measured yet: `python -m model_preserving_id.paper.experiments.missing_class` does it."
    rows = []
    for record in map(read_json, files):
        missing = record["without_class"]
        for p in record["points"]:
            others = [value for i, value in enumerate(p["per_class"]) if i != missing]
            cells = [p["top1"], p["agreement"], p["per_class"][missing], sum(others) / len(others), min(others)]
            rows.append([record["arch"], f"{p['macs_left']:.3f}", *(f"{cell:.2f}" for cell in cells)])
    for left, top1, agreement, *classes in MISSING_CLASS:
        published = (f"{left:.3f}", f"{top1:.2f}", f"{agreement:.2f}", *(f"{value:.1f}" for value in classes))
        rows.append(["vgg16, published", *published])
    return markdown_table(
        ["network", "MACs left", "top-1", "agreement", "missing class", "mean of the others", "worst other"], rows
    )


def ratios_table() -> str:
    """Top-1 / agreement by method and share of the parameters."""
    files = sorted(RESULTS.glob("ratios-*.json"))
    if not files:
        return "Not measured yet: `python -m model_preserving_id.paper.experiments.ratios` does it."
    record = read_json(files[0])
    ratios = sorted({p["ratio"] for p in record["points"]}, reverse=True)
    rows = []
    for method in dict.fromkeys(p["method"] for p in record["points"]):
        found = {p["ratio"]: p for p in record["points"] if p["method"] == method}
        cells = [
            f"{found[r]['top1']:.2f} / {found[r]['agreement']:.2f}" if "top1" in found.get(r, {}) else "–"
            for r in ratios
        ]
        rows.append([record["labels"][method], *cells])
    return markdown_table(["top-1 / agreement, %", *(f"{100 * r:g} % of the parameters" for r in ratios)], rows)


def volume_table() -> str:
    """Error and correlations of the three-dimensional network, every few picks."""
    files = sorted(RESULTS.glob("volume-*.json"))
    if not files:
        return "Not measured yet: `python -m model_preserving_id.paper.experiments.volume` does it."
    record = read_json(files[0])
    names = {"dense": "the whole network", "id": "ID", "l2": "smallest L2 norms"}
    rows = []
    for method, name in names.items():
        points = [p for p in record["points"] if p["method"] == method]
        for p in points[:: max(1, len(points) // 6)]:
            rows.append(
                [name, f"{p['macs_left']:.3f}", f"{p['rmse']:.3f}", f"{p['pearson']:.3f}", f"{p['spearman']:.3f}"]
            )
    return markdown_table([f"{record['data']} set", "MACs left", "test RMSE", "Pearson", "Spearman"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "model_preserving_id.curve": curve_table,
    "model_preserving_id.choices": choices_table,
    "model_preserving_id.runs": runs_table,
    "model_preserving_id.wide": wide_table,
    "model_preserving_id.missing_class": missing_class_table,
    "model_preserving_id.ratios": ratios_table,
    "model_preserving_id.volume": volume_table,
    "model_preserving_id.speed": lambda: speed_table(RESULTS),
}


def look(method: str) -> dict[str, str]:
    """Colour and line of a method in the picture of the curve."""
    from common.plots import COLORS

    return {"color": COLORS[COLOR[method.split("-")[0]]], "linestyle": LINE.get(method, ":")}


def draw_curve(file: Path | str, records: Sequence[Mapping[str, Any]]) -> None:
    """Top-1 and agreement against the share of the MACs, a line per method."""
    from common.plots import figure

    with figure(file, width=10, height=4.6, ncols=2) as (top1, agreement):
        for method, name in NAMES.items():
            found = sorted((r for r in records if r["method"] == method), key=lambda r: r["target"])
            style = {**look(method), "label": name.split(" (")[0]}
            for axes, what in ((top1, "top1"), (agreement, "agreement")):
                if found:
                    axes.plot([100 * r["target"] for r in found], [r[what] for r in found], marker=".", **style)
        top1.axhline(records[0]["dense_top1"], color="black", linewidth=0.8, linestyle="--")
        for axes, label in ((top1, "top-1 %"), (agreement, "agreement %")):
            axes.set(xlabel="% of the MACs", ylabel=label)
            axes.invert_xaxis()
        top1.set_title("ResNet-56, CIFAR-10, no fine-tuning (black: dense)", fontsize=10)
        agreement.figure.legend(*agreement.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)


def add_result(folder: Path | str, results: Path = RESULTS) -> Path:
    """A finished run folder as one JSON file among the results: see :func:`common.reporting.results.keep_run`."""
    return keep_run(folder, PACKAGE, results)


def _read(pattern: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(RESULTS.glob(pattern))]


def draw() -> list[Path]:
    """The picture of the curve, if there are results."""
    records = _read("curve-resnet56-*.json")
    if not records:
        return []
    draw_curve(CURVE, records)
    return [CURVE]


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(PACKAGE, README, TABLES, argv, add=add_result, draw=draw)


if __name__ == "__main__":
    sys.exit(main())
