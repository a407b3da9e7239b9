"""Tables of the README, generated from ``results/*.json`` and the results printed by the original code's README.

python -m redundancy_graph.paper.tables --add RUN_FOLDER      keep a finished run as results/run-<arch>-<threshold>.json
python -m redundancy_graph.paper.tables                       rewrite the README's tables; --check only compares
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import save_run, tables_command
from common.runs import read_json
from redundancy_graph.paper.published import PUBLISHED
from redundancy_graph.settings import PACKAGE

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS = HOME / "results"
README = HOME / "README.md"


def results_table() -> str:
    """All runs, with the published row of the same network and threshold below each."""
    runs = _read("run-*.json")
    if not runs:
        return (
            "No result files yet; keep a finished run with `python -m redundancy_graph.paper.tables --add RUN_FOLDER`."
        )
    header = ["network", "threshold", "source", "dense top-1 (%)", "after pruning, before fine-tuning (%)"]
    header += ["after fine-tuning (%)", "drop (points)", "agreement (%)", "MACs removed", "params removed"]
    header += ["latency, batch 64 (ms)", "epochs"]
    rows = []
    for run in sorted(
        runs, key=lambda run: (run["arch"], -run["options"]["threshold"] if run["options"]["threshold"] else 0)
    ):
        rows += _rows(run)
    return markdown_table(header, rows)


def _rows(run: Mapping[str, Any]) -> list[list[Any]]:
    dense, pruned, small, options = run["baseline"], run["after_cut"], run["compressed"], run["options"]
    threshold = options["threshold"]
    name = PUBLISHED[run["arch"]].title if run["arch"] in PUBLISHED else run["arch"]
    target = f"target {options['target_macs']}" if threshold is None else threshold
    latency = " → ".join(f"{side['latency_ms']['64']:.0f}" for side in (dense, small)) if "latency_ms" in dense else ""
    row = [name, target, "this repository", f"{dense['top1']:.2f}", f"{pruned['top1']:.2f}", f"{small['top1']:.2f}"]
    row += [f"{dense['top1'] - small['top1']:.2f}", f"{small['agreement']:.2f}", _removed(dense, small, "macs")]
    row += [_removed(dense, small, "params"), latency, run["epochs"]]
    return [row, *_published_rows(run["arch"], threshold, name)]


def _published_rows(arch: str, threshold: float | None, name: str) -> list[list[Any]]:
    table = PUBLISHED.get(arch)
    if table is None:
        return []
    found = [row for row in table.rows if row.setting == threshold]
    epochs = 65 if arch == "resnet50" else 90
    return [
        [name, row.setting, table.label, f"{table.top1:.2f}", "", f"{row.top1:.2f}", f"{table.top1 - row.top1:.2f}", ""]
        + [f"{row.macs_drop:.2f} %", f"{row.params_drop:.2f} %", "", epochs]
        for row in found
    ]


def _removed(dense: Mapping[str, Any], small: Mapping[str, Any], quantity: str) -> str:
    return f"{100 * (1 - small[quantity] / dense[quantity]):.2f} %"


def published_table() -> str:
    """The tables of the original code's README."""
    rows: list[list[Any]] = []
    for table in PUBLISHED.values():
        rows.append([table.title, "dense", _pair(table.top1, table.top5), "", "", ""])
        for row in table.rows:
            drop = _pair(table.top1 - row.top1, None if row.top5 is None else (table.top5 or 0) - row.top5)
            accuracy = _pair(row.top1, row.top5)
            rows.append([table.title, row.setting, accuracy, drop, f"{row.macs_drop:.2f}", f"{row.params_drop:.2f}"])
    return markdown_table(
        ["network", "threshold", "top-1 (top-5) (%)", "drop (points)", "MACs removed (%)", "params removed (%)"], rows
    )


def _pair(top1: float, top5: float | None) -> str:
    return f"{top1:.2f}" if top5 is None else f"{top1:.2f} ({top5:.2f})"


def settings_table() -> str:
    """MACs removed from a network by threshold, under settings that the authors used or may have used."""
    files = _read("settings-*.json")
    if not files:
        return "Not measured yet; run `python benchmarks/settings.py`."
    thresholds = [str(t) for t in files[0]["thresholds"]]
    rows = []
    for file in files:
        for setting in file["settings"]:
            network = setting.get("network", file["network"])
            rows.append([network, setting["name"], *(f"{setting['removed'][t]:.1f}" for t in thresholds)])
    return markdown_table(["network", "setting", *(f"MACs removed at {t} (%)" for t in thresholds)], rows)


TABLES: dict[str, Callable[[], str]] = {
    "redundancy_graph": results_table,
    "redundancy_graph.settings": settings_table,
    "redundancy_graph.published": published_table,
    "redundancy_graph.speed": lambda: speed_table(RESULTS),
}


def add_result(folder: Path | str, results: Path = RESULTS) -> Path:
    """Keep a finished run as one JSON file in ``results/``: see :func:`common.reporting.results.keep_run`."""
    return save_run(folder, PACKAGE, results)


def _read(pattern: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(RESULTS.glob(pattern))]


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(PACKAGE, README, TABLES, argv, add=add_result)


if __name__ == "__main__":
    sys.exit(main())
