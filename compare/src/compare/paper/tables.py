"""The tables of the README, made from ``results/*.json``, and how a finished comparison becomes such a file.

python -m compare.paper.tables --add runs/digits     a finished comparison becomes results/digits.json
python -m compare.paper.tables                       rewrite the tables, the root README's too; --check writes nothing
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.atomic import write_json
from common.errors import UserError
from common.markdown import markdown_table
from common.reporting.results import tables_command
from common.runs import read_json
from compare.findings import counted, findings
from compare.rows import Rows, read_rows, single
from compare.settings import PACKAGE
from compare.text import table

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS, README = HOME / "results", HOME / "README.md"
DROPPED = ("per_class", "widths", "classes", "label_so_far")
NONE = "Not run yet."


def add_result(out: Path | str, name: str, results: Path = RESULTS) -> Path:
    """A comparison's folder as one small JSON file: every row's figures, command, commit, seed and environment."""
    rows = read_rows(Path(out))
    if not rows.metrics:
        raise UserError(f"{out} holds no finished row")
    first = rows.metrics[0]["config"]
    record = {
        "environment": first["environment"],
        "finetune": first["options"]["finetune"],
        "data_fingerprint": first["data_fingerprint"],
        "findings": findings(rows),
        "cpu_minutes": round(sum(row.get("cpu_seconds", 0.0) for row in rows.metrics) / 60, 1),
        "minutes": round(sum(row["seconds"] for row in [*rows.metrics, *rows.baselines]) / 60, 1),
        "rows": [{k: v for k, v in row.items() if k not in (*DROPPED, "config")} for row in rows.metrics],
        "baselines": [{k: v for k, v in row.items() if k != "config"} for row in rows.baselines],
    }
    file = results / f"{name}.json"
    write_json(file, record)
    return file


def read_result(name: str, results: Path = RESULTS) -> Rows | None:
    """The rows of a result file; None if there is none yet."""
    file = results / f"{name}.json"
    if not file.is_file():
        return None
    record = read_json(file)
    rows = record["rows"]
    labels = {row["method"]: row["label"] for row in rows}
    for row in rows:
        before = row["chain"][: row["step"] - 1] if row["chain"] else []
        row["label_so_far"] = " + ".join([*(labels.get(one, one) for one in before), row["label"]])
    return Rows(results, rows, record["baselines"], [])


def result_table(name: str) -> str:
    """The whole table of a comparison, and what it says."""
    rows = read_result(name)
    if rows is None:
        return NONE
    record = read_json(RESULTS / f"{name}.json")
    said = "\n".join(f"- {line}" for line in record["findings"])
    about = record["environment"]
    made = f"{record['cpu_minutes']} minutes of processor time, {counted(about['threads'], 'thread')} a process"
    return f"{table(rows)}\n{said}\n\nAll rows: {made}, on {about['device']}."


def short_table(name: str) -> str:
    """Top-1 as cut and after fine-tuning at each budget, one line per method: for the root README."""
    rows = read_result(name)
    if rows is None:
        return NONE
    macs = [g for g in single(rows) if g.first["axis"] == "macs"]
    targets = sorted({g.first["target"] for g in macs}, reverse=True)
    lines = []
    for label in dict.fromkeys(g.label for g in macs):
        found = {g.first["target"]: g for g in macs if g.label == label}
        lines.append([label, *(_cell(found[t]) if t in found else "" for t in targets)])
    return markdown_table(["method", *(f"{100 * t:g} % of the MACs" for t in targets)], lines)


def tried_rates() -> dict[float, dict[str, float]]:
    """Top-1 in percent on held-out training pictures, by learning rate of fine-tuning and method; "mean" over the methods."""
    found = {}
    for file in RESULTS.glob("rate-*.json"):
        record, rows = read_json(file), read_result(file.stem)
        tops = {group.label: group.mean("top1") for group in single(rows)} if rows else {}
        found[record["finetune"]["learning_rate"]] = tops | {"mean": sum(tops.values()) / len(tops)}
    return dict(sorted(found.items()))


def recipe_table() -> str:
    """What each rate of fine-tuning gave, one line per method; the best mean in bold."""
    found = tried_rates()
    if not found:
        return NONE
    rates = list(found)
    means = {rate: found[rate].pop("mean") for rate in rates}
    best = max(means, key=means.__getitem__)
    lines = [[label, *(f"{found[rate][label]:.2f}" for rate in rates)] for label in found[rates[0]]]
    lines.append(["mean", *(f"**{means[rate]:.2f}**" if rate == best else f"{means[rate]:.2f}" for rate in rates)])
    return markdown_table(["method", *(f"rate {rate:g}" for rate in rates)], lines)


def trial_table() -> str:
    """What each recipe of fine-tuning gave on held-out training images: mean and standard error over seeds, by method."""
    lines = []
    for file in RESULTS.glob("recipe-*.json"):
        rows = read_result(file.stem)
        groups = {group.label: group for group in single(rows)} if rows else {}
        recipe = read_json(file)["finetune"]
        if recipe["epochs"]:
            lines.append((groups, recipe))
    if not lines:
        return NONE
    labels = list(lines[0][0])
    lines.sort(key=lambda line: (line[1]["epochs"], -sum(group.mean("top1") for group in line[0].values())))
    header = ["epochs", "schedule", "rate", "batch", "label smoothing", "distillation", "recalibrated on", *labels]
    return markdown_table(
        header, [[*_recipe_cells(recipe), *(_mean(groups[n]) for n in labels)] for groups, recipe in lines]
    )


def _recipe_cells(recipe) -> list[object]:
    warm = f", warm-up {recipe['warmup_epochs']:g}" if recipe["warmup_epochs"] else ""
    own = [recipe["epochs"], recipe["schedule"] + warm, recipe["learning_rate"], recipe["batch_size"]]
    return [*own, recipe["label_smoothing"] or "", recipe.get("distill") or "", recipe.get("recalibrate") or ""]


def _mean(group) -> str:
    deviation = group.deviation("top1")
    error = f" ± {deviation / len(group.rows) ** 0.5:.2f}" if deviation is not None else ""
    return f"{group.mean('top1'):.2f}{error}"


def sweep_table() -> str:
    """A finished NNI experiment beside the same values in one command without NNI."""
    file = RESULTS / "sweep-decore-digits.json"
    if not file.is_file():
        return NONE
    lines = []
    for row in read_json(file)["rows"]:
        for how, name in (("trial of NNI", "nni"), ("one command", "direct")):
            side = row[name]
            lines.append(
                [
                    row["value"],
                    how,
                    f"{side['top1']:.4f}",
                    f"{side['agreement']:.4f}",
                    f"{side['macs']:,}",
                    f"{side['loss']:.6f}",
                ]
            )
    return markdown_table(["penalty", "made by", "top-1 %, held out", "agreement %", "MACs", "loss"], lines)


def _cell(group) -> str:
    cut = f"{group.mean('cut_top1'):.1f}"
    if not group.first["finetune_epochs"]:
        return cut
    deviation = group.deviation("top1")
    return f"{cut} → {group.mean('top1'):.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


TABLES: dict[str, Callable[[], str]] = {
    "compare.digits": lambda: result_table("digits"),
    "compare.resnet56": lambda: result_table("resnet56"),
    "compare.resnet56-tuned": lambda: result_table("resnet56-tuned"),
    "compare.resnet20": lambda: result_table("resnet20"),
    "compare.recipe": recipe_table,
    "compare.recipes": trial_table,
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
