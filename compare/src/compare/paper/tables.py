"""Generate the README tables from ``results/*.json``, and keep finished comparisons as such files.

python -m compare.paper.tables --add runs/digits     keep a finished comparison as results/digits.json
python -m compare.paper.tables                       rewrite the tables, including those of the root README; --check only checks
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.errors import UserError
from common.markdown import markdown_table
from common.reporting.results import tables_command
from common.runs import read_json
from compare.findings import findings, pluralize
from compare.result_set import ResultGroup, ResultSet, add_chain_labels, read_results, single_method_groups
from compare.settings import PACKAGE
from compare.text_report import comparison_table

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS, README = HOME / "results", HOME / "README.md"
DROPPED = ("per_class", "widths", "classes", "label_so_far")
NONE = "Not run yet."


def add_result(out: Path | str, name: str, results: Path = RESULTS) -> Path:
    """Keep a comparison as one small JSON file: metrics, command, commit, seed and environment of every result."""
    result_set = read_results(Path(out))
    if not result_set.results:
        raise UserError(f"{out}: no finished result; run python -m compare first")
    first = result_set.results[0]["config"]
    seconds = sum(result["seconds"] for result in [*result_set.results, *result_set.baselines])
    record = {
        "environment": first["environment"],
        "finetune": first["options"]["finetune"],
        "data_fingerprint": first["data_fingerprint"],
        "findings": findings(result_set),
        "cpu_minutes": round(sum(result.get("cpu_seconds", 0.0) for result in result_set.results) / 60, 1),
        "minutes": round(seconds / 60, 1),
        "rows": [{k: v for k, v in result.items() if k not in (*DROPPED, "config")} for result in result_set.results],
        "baselines": [{k: v for k, v in baseline.items() if k != "config"} for baseline in result_set.baselines],
    }
    file = results / f"{name}.json"
    write_json(file, record)
    return file


def read_result_file(name: str, results: Path = RESULTS) -> ResultSet | None:
    """Read the results in a file of :func:`add_result`; None if there is no such file."""
    file = results / f"{name}.json"
    if not file.is_file():
        return None
    record = read_json(file)
    add_chain_labels(record["rows"])
    return ResultSet(results, record["rows"], record["baselines"], [])


def result_table(name: str) -> str:
    """Format a comparison: the complete table, the findings, and the time it took."""
    result_set = read_result_file(name)
    if result_set is None:
        return NONE
    record = read_json(RESULTS / f"{name}.json")
    lines = "\n".join(f"- {line}" for line in record["findings"])
    environment = record["environment"]
    threads = pluralize(environment["threads"], "thread")
    time = f"{record['cpu_minutes']} minutes of CPU time, {threads} per process, on {environment['device']}"
    return f"{comparison_table(result_set)}\n{lines}\n\nAll results: {time}."


def short_table(name: str) -> str:
    """Format the table of the root README: one row per method, top-1 before and after fine-tuning at each MACs target."""
    result_set = read_result_file(name)
    if result_set is None:
        return NONE
    macs = [g for g in single_method_groups(result_set) if g.first["axis"] == "macs"]
    targets = sorted({g.first["target"] for g in macs}, reverse=True)
    rows = []
    for label in dict.fromkeys(g.label for g in macs):
        found = {g.first["target"]: g for g in macs if g.label == label}
        rows.append([label, *(_before_and_after(found[t]) if t in found else "" for t in targets)])
    return markdown_table(["method", *(f"{100 * t:g} % of the MACs" for t in targets)], rows)


def _before_and_after(group: ResultGroup) -> str:
    before = f"{group.mean('pruned_top1'):.1f}"
    if not group.first["finetune_epochs"]:
        return before
    std = group.std("top1")
    return f"{before} → {group.mean('top1'):.2f}" + (f" ± {std:.2f}" if std is not None else "")


def learning_rate_top1() -> dict[float, dict[str, float]]:
    """Return held-out top-1 (percent) by learning rate of fine-tuning and method; "mean": the mean over the methods."""
    found = {}
    for file in RESULTS.glob("rate-*.json"):
        record, result_set = read_json(file), read_result_file(file.stem)
        tops = {g.label: g.mean("top1") for g in single_method_groups(result_set)} if result_set else {}
        found[record["finetune"]["learning_rate"]] = tops | {"mean": sum(tops.values()) / len(tops)}
    return dict(sorted(found.items()))


def learning_rate_table() -> str:
    """Format held-out top-1 for each learning rate of fine-tuning, one row per method; the best mean is bold."""
    found = learning_rate_top1()
    if not found:
        return NONE
    rates = list(found)
    means = {rate: found[rate].pop("mean") for rate in rates}
    best = max(means, key=means.__getitem__)
    rows = [[label, *(f"{found[rate][label]:.2f}" for rate in rates)] for label in found[rates[0]]]
    rows.append(["mean", *(f"**{means[rate]:.2f}**" if rate == best else f"{means[rate]:.2f}" for rate in rates)])
    return markdown_table(["method", *(f"learning rate {rate:g}" for rate in rates)], rows)


def recipe_table() -> str:
    """Format held-out top-1 for each set of fine-tuning options: mean and standard error over the seeds, by method."""
    found = []
    for file in RESULTS.glob("recipe-*.json"):
        result_set = read_result_file(file.stem)
        groups = {group.label: group for group in single_method_groups(result_set)} if result_set else {}
        recipe = read_json(file)["finetune"]
        if recipe["epochs"]:
            found.append((groups, recipe))
    if not found:
        return NONE
    labels = list(found[0][0])
    found.sort(key=lambda pair: (pair[1]["epochs"], -sum(group.mean("top1") for group in pair[0].values())))
    header = [
        "epochs",
        "schedule",
        "learning rate",
        "batch size",
        "label smoothing",
        "distillation weight",
        "recalibration images",
        *labels,
    ]
    rows = [[*_recipe_cells(recipe), *(_mean_and_error(groups[name]) for name in labels)] for groups, recipe in found]
    return markdown_table(header, rows)


def _recipe_cells(recipe: Mapping[str, Any]) -> list[object]:
    warmup = f", warm-up {recipe['warmup_epochs']:g}" if recipe["warmup_epochs"] else ""
    own = [recipe["epochs"], recipe["schedule"] + warmup, recipe["learning_rate"], recipe["batch_size"]]
    return [*own, recipe["label_smoothing"] or "", recipe.get("distill") or "", recipe.get("recalibrate") or ""]


def _mean_and_error(group: ResultGroup) -> str:
    std = group.std("top1")
    error = f" ± {std / len(group.results) ** 0.5:.2f}" if std is not None else ""
    return f"{group.mean('top1'):.2f}{error}"


def sweep_table() -> str:
    """Format a finished NNI experiment next to the same values computed by one command without NNI."""
    file = RESULTS / "sweep-decore-digits.json"
    if not file.is_file():
        return NONE
    rows = []
    for trial in read_json(file)["rows"]:
        for how, name in (("NNI trial", "nni"), ("one command", "direct")):
            metrics = trial[name]
            rows.append(
                [
                    trial["value"],
                    how,
                    f"{metrics['top1']:.4f}",
                    f"{metrics['agreement']:.4f}",
                    f"{metrics['macs']:,}",
                    f"{metrics['loss']:.6f}",
                ]
            )
    return markdown_table(["penalty", "computed by", "held-out top-1 (%)", "agreement (%)", "MACs", "loss"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "compare.digits": lambda: result_table("digits"),
    "compare.resnet56": lambda: result_table("resnet56"),
    "compare.resnet56-tuned": lambda: result_table("resnet56-tuned"),
    "compare.resnet20": lambda: result_table("resnet20"),
    "compare.recipe": learning_rate_table,
    "compare.recipes": recipe_table,
    "compare.sweep": sweep_table,
    "compare.digits.short": lambda: short_table("digits"),
    "compare.resnet56.short": lambda: short_table("resnet56"),
    "compare.resnet20.short": lambda: short_table("resnet20"),
}


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command(
        PACKAGE, README, TABLES, argv, add=lambda folder: add_result(folder, Path(folder).resolve().name)
    )


if __name__ == "__main__":
    sys.exit(main())
