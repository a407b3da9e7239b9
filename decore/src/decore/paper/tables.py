"""Tables of the README, generated from ``results/*.json`` and the published results.

python -m decore.paper.tables --add FOLDER ...    keep finished runs as results/run-<folder>.json or results/policies-<folder>.json;
                                                  FOLDER is a run folder or contains run folders
python -m decore.paper.tables                         rewrite the README's tables; --check only compares
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.latency import LATENCY_COLUMNS, dense_latency_note, latency_cells
from common.reporting.published import PublishedTable
from common.reporting.results import save_run, tables_command
from common.runs import CONFIG, METRICS, read_json
from decore.paper.published import PUBLISHED
from decore.policy_options import PACKAGE, differences

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS = HOME / "results"
DATA_SETS = ("cifar10", "imagenet")  # of the paper's tables
NONE = "Not measured yet."
ACCURACY_COLUMNS = [
    "dense top-1 (%)",
    "after pruning, before fine-tuning (%)",
    "after fine-tuning (%)",
    "drop (points)",
]
HERE = "this repository"
TITLES = {table.arch: table.title for table in PUBLISHED} | {"resnet20": "ResNet-20"}


def results_table() -> str:
    """All runs on the paper's data sets, with the published rows of a network above its runs."""
    runs = [run for run in _read("run-*.json") if run["dataset"] in DATA_SETS]
    header = ["network", "source", *ACCURACY_COLUMNS, "agreement (%)", "MACs removed", "params removed"]
    header += [*LATENCY_COLUMNS, "policy / fine-tuning epochs", "minutes"]
    rows: list[list[Any]] = []
    shown: list[Mapping[str, Any]] = []
    archs = list(dict.fromkeys([run["arch"] for run in runs] + [table.arch for table in PUBLISHED]))
    for arch in sorted(archs, key=lambda arch: (arch not in {run["arch"] for run in runs}, archs.index(arch))):
        for table in PUBLISHED:
            if table.arch == arch:
                rows += published_rows(table)
        of_arch = _paper_first(run for run in runs if run["arch"] == arch)
        rows += [_row(run) for run in of_arch]
        shown += of_arch
    return markdown_table(header, rows) + dense_latency_note(shown)


def short_table() -> str:
    """The networks of which runs on CIFAR-10 exist, with the published rows."""
    runs = [run for run in _read("run-*.json") if run["dataset"] == "cifar10"]
    header = ["network", "source", *ACCURACY_COLUMNS[::2], "drop (points)", "MACs removed", "params removed"]
    header.append("policy / fine-tuning epochs")
    rows: list[list[Any]] = []
    for arch in dict.fromkeys(run["arch"] for run in runs):
        published = [row for table in PUBLISHED if table.arch == arch for row in published_rows(table)]
        of_arch = [_row(run) for run in _paper_first(run for run in runs if run["arch"] == arch)]
        rows += [[*row[:3], *row[4:6], *row[7:9], row[11]] for row in published + of_arch]
    return markdown_table(header, rows)


def _paper_first(runs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort runs: the paper variant first, then by MACs."""
    return sorted(runs, key=lambda run: (bool(differences(run["options"])), -run["compressed"]["macs"]))


def _variant(run: Mapping[str, Any]) -> str:
    """Describe the method of a run: the paper's, or how it differs, and its target."""
    options = run["options"]
    differing = ", ".join(differences(options))
    text = f"extended ({differing})" if differing else "paper variant"
    return text + ("" if options["target_macs"] is None else f", {options['target_macs']:g} of the MACs")


def _row(run: Mapping[str, Any]) -> list[Any]:
    row = [TITLES.get(run["arch"], run["arch"]), f"{HERE}, penalty {run['penalty']:.4g}, {_variant(run)}"]
    row += [*_top1(run), f"{run['compressed']['agreement']:.2f}", *_removed(run)]
    return [*row, *latency_cells(run), _epochs(run), f"{(run['seconds']) / 60:.0f}"]


def _epochs(run: Mapping[str, Any]) -> str:
    return f"{run['policy_epochs']} on {run['policy']['images']:,} images / {run['epochs']}"


def _top1(run: Mapping[str, Any]) -> list[str]:
    """Top-1 of the dense network, before and after fine-tuning, and the drop."""
    dense, pruned, small = (run[side]["top1"] for side in ("baseline", "after_cut", "compressed"))
    return [f"{value:.2f}" for value in (dense, pruned, small, dense - small)]


def _removed(run: Mapping[str, Any]) -> list[str]:
    """MACs and parameters removed, in percent."""
    dense, small = run["baseline"], run["compressed"]
    return [f"{100 * (1 - small[name] / dense[name]):.1f} %" for name in ("macs", "params")]


def small_table() -> str:
    """Small-scale runs by penalty, with the accuracy that the sign condition requires."""
    runs = [run for run in _small_runs() if run["options"]["target_macs"] is None]
    if not runs:
        return NONE
    header = [
        "network",
        "variant",
        "penalty",
        "accuracy required by λ (%)",
        "accuracy under sampled masks (%)",
        *ACCURACY_COLUMNS,
    ]
    header += ["MACs removed", "params removed", "policy / fine-tuning epochs"]
    order = sorted(runs, key=lambda run: (run["arch"], bool(differences(run["options"])), run["penalty"]))
    return markdown_table(header, [_small_row(run) for run in order])


def networks_table() -> str:
    """The paper's networks end to end at small scale (``benchmarks/every_network.py``), with the published rows."""
    runs = [run for run in _small_runs() if run["options"]["target_macs"] is not None]
    order = [*(table.arch for table in PUBLISHED), *(run["arch"] for run in runs)]
    return tabulate_runs(sorted(runs, key=lambda run: order.index(run["arch"]))) if runs else NONE


def tabulate_runs(runs: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate one run per network, each with its published rows."""
    rows: list[list[Any]] = []
    for run in runs:
        name = f"{TITLES.get(run['arch'], run['arch'])} on {run['dataset']}"
        published = (row for table in PUBLISHED if table.arch == run["arch"] for row in published_rows(table))
        rows += [[*row[:6], *row[7:9]] for row in published]
        label = f"{HERE}, small scale, penalty {run['penalty']:.3g}, {_variant(run)}"
        rows.append([name, label, *_top1(run), *_removed(run)])
    header = ["network", "source", *ACCURACY_COLUMNS, "MACs removed", "params removed"]
    return markdown_table(header, rows)


def _small_runs() -> list[dict[str, Any]]:
    return [run for run in _read("run-*.json") if run["dataset"] not in DATA_SETS]


def _small_row(run: Mapping[str, Any]) -> list[Any]:
    from decore.reward import required_accuracy  # imports torch

    last = run["policy"]["last_epoch"]
    row: list[Any] = [
        f"{TITLES.get(run['arch'], run['arch'])} on {run['dataset']}",
        _variant(run),
        f"{run['penalty']:.4g}",
    ]
    row += [f"{100 * required_accuracy(run['penalty']):.2f}", f"{last['masked_accuracy']:.2f}" if last else ""]
    row += [*_top1(run), *_removed(run)]
    return [*row, _epochs(run)]


def published_rows(table: PublishedTable) -> list[list[Any]]:
    """Tabulate published results, with the columns of :func:`results_table`."""
    rows = []
    for row in table.rows:
        top1 = f"{row.top1:.2f}" if row.top5 is None else f"{row.top1:.2f} ({row.top5:.2f})"
        dense = f"{table.top1:.2f}" if table.top5 is None else f"{table.top1:.2f} ({table.top5:.2f})"
        label = f"DECORE-{row.setting:g}, published ({table.source})"
        drop = f"{table.top1 - row.top1:.2f}"
        removed = [f"{row.macs_drop:g} %", f"{row.params_drop:g} %"]
        rows.append([table.title, label, dense, "", top1, drop, "", *removed, "", "", "", ""])
    return rows


def policies_table() -> str:
    """Accuracy of the frozen network as channels are dropped by their agents' weights (section 5)."""
    files = _read("policies-*.json")
    if not files:
        return "Not measured yet; run `python investigate_policies.py`."
    rows = []
    for file in files:
        network = f"{TITLES.get(file['arch'], file['arch'])}, penalty {file['penalty']:.4g}"
        curves = file["curves"]
        for low, random, high in zip(curves["low"], curves["random"], curves["high"], strict=True):
            std = f" ± {random['std']:.2f}" if "std" in random else ""
            row = [network, f"{100 * low['dropped']:.1f} %", f"{low['top1']:.2f}"]
            rows.append([*row, f"{random['top1']:.2f}{std}", f"{high['top1']:.2f}"])
    return markdown_table(
        ["network", "channels dropped", "lowest weight first", "random", "highest weight first"], rows
    )


TABLES: dict[str, Callable[[], str]] = {
    "decore": results_table,
    "decore.short": short_table,
    "decore.small": small_table,
    "decore.networks": networks_table,
    "decore.policies": policies_table,
    "decore.speed": lambda: speed_table(RESULTS),
}


def add_result(folder: Path | str, results: Path = RESULTS) -> Path:
    """Keep a finished run as one JSON file in ``results/``: see :func:`common.reporting.results.keep_run`."""
    metrics_file = Path(folder) / METRICS
    metrics = read_json(metrics_file) if metrics_file.is_file() else {}
    if metrics and not ("curves" in metrics or "compressed" in metrics):
        raise UserError(
            f"{folder}: not a run of prune_model.py or investigate_policies.py; name one of their run folders"
        )
    kind = "policies" if "curves" in metrics else "run"
    data = str(metrics.get("dataset"))
    place = f"-{data}" if kind == "run" and data not in DATA_SETS and not {":", "/"} & set(data) else ""
    name = f"{kind}-{Path(folder).name.removesuffix('-policies')}{place}"
    if kind == "run" and (results / f"{name}.json").is_file():  # the other variant's result stays
        differing = differences(read_json(Path(folder) / CONFIG)["options"])
        if bool(differing) != bool(differences(read_json(results / f"{name}.json")["options"])):
            name += "-extended" if differing else "-paper"
    return save_run(folder, PACKAGE, results, f"{name}.json")


def add_results(folder: Path | str, results: Path = RESULTS) -> str:
    """Keep a finished run, or all finished runs directly in a folder, and return a line per result file.

    Policy phases are parts of runs: they are named, and not kept.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name run folders, or a folder that contains them")
    found = [folder] if (folder / METRICS).is_file() else sorted(file.parent for file in folder.glob(f"*/{METRICS}"))
    if not found:
        raise UserError(f"{folder}: contains no finished run, {METRICS} is missing; wait until the run is finished")
    phases = [run for run in found if "last_epoch" in read_json(run / METRICS)]
    lines = [f"{run}: a policy phase, part of other runs; not kept" for run in phases]
    return "\n".join(lines + [str(add_result(run, results)) for run in found if run not in phases])


def _read(pattern: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(RESULTS.glob(pattern))]


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(PACKAGE, HOME / "README.md", TABLES, argv, add=add_results)


if __name__ == "__main__":
    sys.exit(main())
