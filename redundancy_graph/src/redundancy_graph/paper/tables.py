"""Tables of the README, generated from ``results/*.json`` and the authors' published results.

python -m redundancy_graph.paper.tables --add FOLDER      keep a run folder or the folder of a prune-info file in results/
python -m redundancy_graph.paper.tables                   rewrite the README's tables; --check only compares
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.latency import LATENCY_COLUMNS, dense_latency_note, latency_cells
from common.reporting.results import save_run, tables_command
from common.runs import CONFIG, METRICS, read_json
from redundancy_graph.paper.published import ABSTRACT, FIRST, LATER, PUBLISHED, Published, find_published
from redundancy_graph.settings import PACKAGE, REPORT

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS = HOME / "results"
README = HOME / "README.md"
DIGITS = HOME.parent / "compare" / "results" / "digits.json"  # run_digits.sh computes one of its results
TITLES = {row.arch: row.table.partition(" (")[0] for row in reversed(PUBLISHED)}
SHORTCUTS = {"conv3x3": "3x3 shortcuts", "pad": "option-A shortcuts"}
AS_ORIGINAL = "B1, B2 and B6, as the original code"  # a setting of benchmarks/settings.py
UNFINISHED = "not finished"
FLOPS = "FLOPs removed, counted by thop (%)"


def results_table() -> str:
    """All runs, networks of the authors first, below the published row of the same network and threshold."""
    runs = sorted(_read("run-*.json"), key=_order)
    if not runs:
        return (
            "No result files yet; keep a finished run with `python -m redundancy_graph.paper.tables --add RUN_FOLDER`."
        )
    header = ["network", "threshold", "source", "dense top-1 (%)", "after pruning, before fine-tuning (%)"]
    header += [
        "after fine-tuning (%)",
        "drop (points)",
        "agreement (%)",
        "MACs removed (%)",
        FLOPS,
        "params removed (%)",
    ]
    header += [*LATENCY_COLUMNS, "epochs"]
    rows: list[list[Any]] = []
    for arch, dataset in dict.fromkeys((run["arch"], run["dataset"]) for run in runs):
        own = [run for run in runs if (run["arch"], run["dataset"]) == (arch, dataset)]
        rows += _authors_rows(arch, dataset, [run for run in own if _shortcut(run) != "pad"])
        rows += [_cells(run) for run in own if _shortcut(run) == "pad"]
    return markdown_table(header, rows) + dense_latency_note(runs)


def _order(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return run["arch"], run["dataset"], _shortcut(run) or "", -(run["options"]["threshold"] or 0)


def _authors_rows(arch: str, dataset: str, runs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the published rows of a network, each above the run with its threshold, and the other runs; none without runs."""
    if not runs:
        return []
    title = network_title(arch, _shortcut(runs[0]))
    printed = {row.threshold for row in PUBLISHED if (row.arch, row.dataset) == (arch, dataset) and row.top1}
    thresholds = {*printed, *(run["options"]["threshold"] for run in runs)} - {None}
    rows = []
    for threshold in [*sorted(thresholds, reverse=True), None]:
        row = find_published(arch, dataset, threshold) if threshold else None
        own = [_cells(run) for run in runs if run["options"]["threshold"] == threshold]
        if row is not None and row.top1 is not None:
            rows.append(_published_cells(row, title))
            own = own or [[title, threshold, "this repository", "", "", UNFINISHED, *[""] * 8]]
        rows += own
    return rows


def _published_cells(row: Published, title: str) -> list[Any]:
    assert row.top1 is not None
    cells = [title, row.threshold, f"{row.source} (published)", f"{row.top1 + row.drop:.2f}", "", f"{row.top1:.2f}"]
    return [*cells, f"{row.drop:.2f}", "", "", f"{row.flops_drop:.2f}", _number(row.params_drop), "", "", row.epochs]


def _cells(run: Mapping[str, Any]) -> list[Any]:
    dense, pruned, small, options = run["baseline"], run["after_cut"], run["compressed"], run["options"]
    threshold, name = options["threshold"], network_title(run["arch"], _shortcut(run))
    target = f"target {options['target_macs']}" if threshold is None else threshold
    row = [name, target, "this repository", f"{dense['top1']:.2f}", f"{pruned['top1']:.2f}", f"{small['top1']:.2f}"]
    row += [f"{dense['top1'] - small['top1']:.2f}", f"{small['agreement']:.2f}", _removed(dense, small, "macs"), ""]
    return [*row, _removed(dense, small, "params"), *latency_cells(run), run["epochs"]]


def network_title(arch: str, shortcut: str | None) -> str:
    """Return the name of a network in tables, with the type of its shortcuts."""
    title = TITLES.get(arch, arch)
    return f"{title}, {SHORTCUTS[shortcut]}" if shortcut else title


def _shortcut(run: Mapping[str, Any]) -> str | None:
    """Return the type of the shortcuts; runs of earlier commits record only the file of the weights."""
    if "shortcut" in run:
        return run["shortcut"]
    if not run["arch"].startswith("resnet") or run["arch"] == "resnet50":
        return None
    return "conv3x3" if "conv3x3" in str(run["options"].get("pretrained")) else "pad"


def _removed(dense: Mapping[str, Any], small: Mapping[str, Any], quantity: str) -> str:
    return f"{100 * (1 - small[quantity] / dense[quantity]):.2f}"


def removed_table() -> str:
    """MACs and parameters removed from the authors' networks, and top-1 after fine-tuning, next to the published values."""
    reports = sorted(_read("prune-info-*.json"), key=lambda report: (report["arch"], -report["threshold"]))
    header = ["network", "threshold", f"{FLOPS}, published", "MACs removed, this repository (%)"]
    header += [
        "MACs removed with B1, B2 and B6 (%)",
        "params removed, published (%)",
        "params removed, this repository (%)",
        "top-1, dense → fine-tuned (drop), published (%)",
        "top-1, this repository (%)",
    ]
    runs = {(run["arch"], _shortcut(run), run["options"]["threshold"]): run for run in _read("run-*.json")}
    rows = []
    for report in reports:
        printed = find_published(report["arch"], report["dataset"], report["threshold"])
        row = [network_title(report["arch"], report["shortcut"]), report["threshold"]]
        flops, params = (printed.flops_drop, printed.params_drop) if printed else (None, None)
        row += [_number(flops), _number(report["macs_removed"]), _number(_as_original(report))]
        row += [_number(params), _number(report["params_removed"])]
        row.append(_dense_and_top1(printed.top1 + printed.drop, printed.top1) if printed and printed.top1 else "")
        run = runs.get((report["arch"], report["shortcut"], report["threshold"]))
        row.append(_dense_and_top1(run["baseline"]["top1"], run["compressed"]["top1"]) if run else UNFINISHED)
        rows.append(row)
    return markdown_table(header, rows)


def _dense_and_top1(dense: float, top1: float) -> str:
    return f"{dense:.2f} → {top1:.2f} ({top1 - dense:+.2f})".replace("-", "−")


def _as_original(report: Mapping[str, Any]) -> float | None:
    """Return the MACs removed from the same network at the same threshold, with feature maps as in the original code."""
    file = RESULTS / f"settings-{Path(report['weights']).stem}.json"
    for setting in read_json(file)["settings"] if file.is_file() else ():
        if setting["name"] == AS_ORIGINAL:
            return setting["removed"].get(str(report["threshold"]))
    return None


def quick_table() -> str:
    """Commands of the README's first section with time and result."""
    reports = [one for one in _read("prune-info-*.json") if one["shortcut"] == "conv3x3"]
    runs = [run for run in _read("run-*.json") if run["arch"] == "resnet56"]
    runs = [run for run in runs if _shortcut(run) == "conv3x3"] or runs
    rows = []
    if reports:
        removed = " / ".join(f"{report['macs_removed']:.1f}" for report in sorted(reports, key=_threshold))
        seconds = max(report["seconds"] for report in reports)
        expected = f"{removed} % of the MACs removed at {_thresholds(reports)}"
        rows.append(
            ["pruning information for all three thresholds", f"{seconds:.0f} s on one core, and imports", expected]
        )
    if runs:
        runs = sorted(runs, key=lambda run: run["options"]["threshold"])
        minutes = [run["seconds"] / 60 for run in runs]
        top1 = " / ".join(f"{run['compressed']['top1']:.2f}" for run in runs)
        recipe = f"`--epochs {runs[0]['epochs']} --adjust {runs[0]['options']['adjust']}`"
        thresholds = " / ".join(f"{run['options']['threshold']:g}" for run in runs)
        name = f"fine-tuning with {recipe}, {SHORTCUTS[_shortcut(runs[0]) or '']}, at {thresholds}"
        time = " to ".join(dict.fromkeys(f"{value:.0f}" for value in (min(minutes), max(minutes))))
        time += f" minutes per threshold, {runs[0]['device']}"
        rows.append([name, time, f"top-1 {top1} % (dense {runs[0]['baseline']['top1']:.2f} %)"])
    rows.append(
        ["`bash ../run_digits.sh`: all methods on digits, no download", "[root README](../README.md)", _digits()]
    )
    return markdown_table(["step", "time", "expected"], rows)


def _threshold(report: Mapping[str, Any]) -> float:
    return report["threshold"]


def _thresholds(reports: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(f"{report['threshold']:g}" for report in sorted(reports, key=_threshold))


def _digits() -> str:
    """Return the result of ``run_digits.sh``: this method, seed 0, half of the MACs."""
    for row in read_json(DIGITS)["rows"] if DIGITS.is_file() else ():
        if row["method"] == PACKAGE and row["seed"] == 0 and row["target"] == 0.5:
            kept = 100 * row["compressed"]["macs"] / row["baseline"]["macs"]
            top1, dense = row["compressed"]["top1"], row["baseline"]["top1"]
            return f"top-1 {top1:.1f} % with {kept:.1f} % of the MACs (dense {dense:.1f} %)"
    return "not measured"


def published_table(*sources: str, datasets: Sequence[str] = ("cifar10", "imagenet")) -> str:
    """The authors' tables, as printed."""
    rows = [
        [
            row.table,
            row.row,
            row.source,
            _pair(row.top1, row.top5),
            _drop(row),
            f"{row.flops_drop:.2f}",
            _number(row.params_drop),
        ]
        for row in PUBLISHED
        if row.source in sources and row.dataset in datasets
    ]
    header = ["table", "row (threshold)", "source", "top-1 (top-5) (%)", "drop (points)", FLOPS, "params removed (%)"]
    return markdown_table(header, rows)


def _drop(row: Published) -> str:
    return "" if row.row == "baseline" else _pair(row.drop, row.top5_drop)


def _pair(top1: float | None, top5: float | None) -> str:
    return _number(top1) if top5 is None else f"{_number(top1)} ({top5:.2f})"


def _number(value: float | None) -> str:
    """Return two digits, or an empty cell."""
    return "" if value is None else f"{value:.2f}"


def settings_table() -> str:
    """MACs removed from a network by threshold, under settings that the authors used or may have used."""
    files = _read("settings-*.json")
    if not files:
        return "Not measured yet; run `python benchmarks/settings.py`."
    thresholds = [str(t) for t in sorted({t for file in files for t in file["thresholds"]}, reverse=True)]
    rows = []
    for file in files:
        for setting in file["settings"]:
            removed = (setting["removed"].get(t) for t in thresholds)
            cells = ("" if value is None else f"{value:.1f}" for value in removed)
            rows.append([setting.get("network", file["network"]), setting["name"], *cells])
    return markdown_table(["network", "setting", *(f"MACs removed at {t} (%)" for t in thresholds)], rows)


TABLES: dict[str, Callable[[], str]] = {
    "redundancy_graph.quick": quick_table,
    "redundancy_graph.removed": removed_table,
    "redundancy_graph": results_table,
    "redundancy_graph.settings": settings_table,
    "redundancy_graph.published": lambda: published_table(FIRST),
    "redundancy_graph.later": lambda: published_table(LATER, ABSTRACT),
    "redundancy_graph.cifar100": lambda: published_table(LATER, datasets=("cifar100",)),
    "redundancy_graph.cub200": lambda: published_table(LATER, datasets=("cub200",)),
    "redundancy_graph.speed": lambda: speed_table(RESULTS),
}


def add_result(folder: Path | str, results: Path = RESULTS) -> Path:
    """Keep a finished run, or the report of generate_prune_info.py, as one JSON file in ``results/``."""
    folder = Path(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {"options": {}}
    if (folder / METRICS).is_file() or not (folder / REPORT).is_file():
        metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
        return save_run(folder, PACKAGE, results, f"run-{_file_label({**metrics, **config}, folder)}.json")
    report, environment = read_json(folder / REPORT), config["environment"]
    record = {**report, "device": environment["device"], "commit": environment["commit"], "environment": environment}
    file = results / f"prune-info-{_file_label(report, folder)}.json"
    write_json(file, {**record, "options": config["options"], "data_fingerprint": config["data_fingerprint"]})
    return file


def _file_label(record: Mapping[str, Any], folder: Path) -> str:
    """Return the folder's name with what it does not contain: 3x3 shortcuts, and a data set other than the usual two."""
    name, _, rest = folder.name.rpartition("-")
    more = ["conv3x3"] if record.get("arch") and _shortcut(record) == "conv3x3" else []
    if record.get("dataset") not in (None, "cifar10", "imagenet"):
        more.append(record["dataset"].replace(":", "_").replace("/", "_"))
    return "-".join([name, *more, rest])


def _read(pattern: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(RESULTS.glob(pattern))]


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(PACKAGE, README, TABLES, argv, add=add_result)


if __name__ == "__main__":
    sys.exit(main())
