"""Generate the README tables from ``results/*.json``, and keep finished comparisons as such files.

python -m compare.paper.tables --add runs/digits     add a finished comparison to results/digits.json
python -m compare.paper.tables                       rewrite tables and plots, also those of the root README; --check only checks
"""

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.atomic import write_json, write_text
from common.errors import UserError
from common.markdown import markdown_table
from common.reporting.results import tables_command
from common.runs import read_json
from compare.charts import figure_svg
from compare.findings import findings, pluralize
from compare.result_set import (
    ResultGroup,
    ResultRecord,
    ResultSet,
    absent_methods,
    add_chain_labels,
    read_results,
    single_method_groups,
)
from compare.settings import PACKAGE, finetune_defaults
from compare.significance import compare_over_seeds
from compare.text_report import ABSENT, absent_lines, comparison_table, method_notes, seeds_note, table_notes
from compare.values import DENSE, dense_top1, top1_cell

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RESULTS, README = HOME / "results", HOME / "README.md"
DROPPED = ("per_class", "widths", "classes", "changed", "label_so_far", "config")
PLOTTED = ("digits", "resnet20")
COMPARISONS = (
    "resnet56-40",
    "digits",
    "resnet56",
    "resnet56-tuned",
    "resnet20",
)  # the newest first: its notes are shown
NONE = "Not run yet."
TEST_IMAGES = {  # {data fingerprint: number of images} of results that do not record it
    "57e4e77651d07bc7": 500,  # digits
    "526df3030132384c": 10_000,  # CIFAR-10
    "e93f168762a90928": 259,  # 20 % of the training images of digits
    "71ed2c333af446ae": 5_000,  # 10 % of the training images of CIFAR-10
}
NOT_SHORT = (
    "L1 norm, inner groups",
    "random, inner groups",
    "random, re-solved weights",
)  # rows of complete tables only
BYTES = "targets bytes"  # reason for absence from a table of MACs targets


def add_result(out: Path | str, name: str, results: Path = RESULTS) -> Path:
    """Add a comparison to one small JSON file: metrics, command, commit, seed and environment of every result.

    Results that the file has already are replaced; its other results stay.

    Raises:
        UserError: If there is no finished result, or the file's results have other dense networks, data or options.
    """
    result_set = read_results(Path(out))
    if not result_set.results:
        raise UserError(f"{out}: no finished result; run python -m compare first")
    first = result_set.results[0]["config"]
    record = {
        "environment": first["environment"],
        "finetune": first["options"]["finetune"],
        "data_fingerprint": first["data_fingerprint"],
        "unreachable": result_set.unreachable,
        "rows": [{k: v for k, v in result.items() if k not in DROPPED} for result in result_set.results],
        "baselines": [{k: v for k, v in baseline.items() if k != "config"} for baseline in result_set.baselines],
    }
    file = results / f"{name}.json"
    if file.is_file():
        record = _merged(read_json(file), record, file)
    write_json(file, record)
    return file


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Add new results to those of a file. Raises UserError if they cannot be compared."""
    untuned = old["finetune"]["epochs"] == new["finetune"]["epochs"] == 0  # then the other options have no effect
    for key in ("data_fingerprint",) if untuned else ("finetune", "data_fingerprint"):
        if old[key] != new[key]:
            raise UserError(f"{file}: has results with another {key}; delete the file to replace all of its results")
    networks = {dense["seed"]: _without_latency(dense) for dense in old["baselines"]}
    for dense in new["baselines"]:
        if networks.setdefault(dense["seed"], _without_latency(dense)) != _without_latency(dense):
            raise UserError(
                f"{file}: has results of another dense network of seed {dense['seed']}; delete the file to replace all of its results"
            )
    rows = {_row_key(row): row for row in (*old["rows"], *new["rows"])}
    unreachable = {one["folder"]: one for one in (*old.get("unreachable", []), *new["unreachable"])}
    finished = {row["folder"] for row in rows.values()}
    seeds = {dense["seed"] for dense in old["baselines"]}
    return {
        **old,
        "unreachable": [one for folder, one in unreachable.items() if folder not in finished],
        "rows": list(rows.values()),
        "baselines": [*old["baselines"], *(dense for dense in new["baselines"] if dense["seed"] not in seeds)],
    }


def _without_latency(dense: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dense["baseline"].items() if key != "latency_ms"}


def _row_key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["folder"], row["seed"]


def read_result_file(name: str, results: Path = RESULTS) -> ResultSet | None:
    """Read the results in a file of :func:`add_result`; None if there is no such file."""
    file = results / f"{name}.json"
    if not file.is_file():
        return None
    record = read_json(file)
    add_chain_labels(record["rows"])
    config = {"environment": record["environment"], "options": {"finetune": record["finetune"]}}
    count = TEST_IMAGES.get(record.get("data_fingerprint"))
    images = {} if count is None else {"test_images": count}
    rows = [{**images, **row, "config": config} for row in record["rows"]]
    result_set = ResultSet(results, rows, record["baselines"], record.get("unreachable", []))
    return replace(result_set, absent=absent_methods(result_set, dict.fromkeys(workspace_methods(), True)))


def workspace_methods() -> list[str]:
    """Return the names of all methods of the workspace, which need not be installed."""
    from common.methods import GROUP

    projects = (tomllib.loads(file.read_text(encoding="utf-8")) for file in HOME.parent.glob("*/pyproject.toml"))
    return sorted(name for one in projects for name in one["project"].get("entry-points", {}).get(GROUP, {}))


def result_table(name: str) -> str:
    """Format a comparison: the complete table, the methods without a row, the findings, and the time it took."""
    result_set = read_result_file(name)
    if result_set is None:
        return NONE
    environment = read_json(RESULTS / f"{name}.json")["environment"]
    notes = [line[0].upper() + line[1:] for line in table_notes(result_set).splitlines()]
    lines = "\n".join(f"- {line}" for line in [seeds_note(result_set), *findings(result_set), *notes])
    threads = pluralize(environment["threads"], "thread")
    on_cpu = environment["device"].startswith("cpu")
    minutes = sum(result.get("cpu_seconds" if on_cpu else "seconds", 0.0) for result in result_set.results) / 60
    time = "of CPU time" if on_cpu else "in total, of results that may have been computed at the same time"
    time = f"{minutes:.1f} minutes {time}, {threads} per process, on {environment['device']}"
    return f"{comparison_table(result_set)}\n{lines}\n\nAll results: {time}."


def short_table(name: str, complete: bool = True) -> str:
    """Format a table of one row per method, without some variants of reference methods: top-1 before and after fine-tuning at each target.

    complete: whether the methods that are not in the table are listed.
    """
    result_set = read_result_file(name)
    if result_set is None:
        return NONE
    macs = [g for g in single_method_groups(result_set) if g.first["axis"] == "macs"]
    targets = sorted({g.first["target"] for g in macs}, reverse=True)
    rows = [[DENSE, *([dense_top1(result_set)] * len(targets))]]
    for label in dict.fromkeys(g.label for g in macs if g.label not in NOT_SHORT):
        found = {g.first["target"]: g for g in macs if g.label == label}
        rows.append([label, *(_before_and_after(found[t]) if t in found else "" for t in targets)])
    table = markdown_table(["method", *(f"{100 * t:g} % of the MACs" for t in targets)], rows)
    others = {result["method"]: BYTES for result in result_set.results if result["axis"] == "bytes"}
    absent = absent_lines(replace(result_set, absent={**result_set.absent, **others}))
    return f"{table}\nNot in the table ({ABSENT}): {'; '.join(absent)}." if absent and complete else table


def notes_list() -> str:
    """Format the notes on all methods of the comparisons."""
    found = [result_set for name in COMPARISONS if (result_set := read_result_file(name))]
    latest: dict[str, ResultRecord] = {}
    for result in (result for result_set in found for result in result_set.results):
        latest.setdefault(result["label"], result)
    results = list(latest.values())
    return "\n".join(f"- {line}." for line in method_notes(ResultSet(RESULTS, results, [], []))) if results else NONE


def _before_and_after(group: ResultGroup) -> str:
    if not group.first["finetune_epochs"]:
        return str(top1_cell(group, digits=1))
    return f"{group.mean('pruned_top1'):.1f} → {top1_cell(group)}"


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
    results = {rate: one for rate in rates if (one := read_result_file(f"rate-{rate:g}"))}
    groups = {rate: {g.label: g for g in single_method_groups(one)} for rate, one in results.items()}
    rows: list[list[object]] = [[DENSE, *map(dense_top1, results.values())]]
    rows += [[label, *(top1_cell(groups[rate][label]) for rate in rates)] for label in found[rates[0]]]
    rows.append(["mean", *(f"**{means[rate]:.2f}**" if rate == best else f"{means[rate]:.2f}" for rate in rates)])
    return markdown_table(["method", *(f"learning rate {rate:g}" for rate in rates)], rows)


def recipe_table() -> str:
    """Format held-out top-1 for each set of fine-tuning options: mean and standard error over the seeds, by method.

    ``*`` marks a significant difference from the default options (paired t-test over the seeds).
    """
    found = []
    for file in RESULTS.glob("recipe-*.json"):
        result_set = read_result_file(file.stem)
        groups = {group.label: group for group in single_method_groups(result_set)} if result_set else {}
        recipe = read_json(file)["finetune"]
        if recipe["epochs"]:
            found.append((groups, recipe))
            dense = dense_top1(result_set) if result_set else ""  # the same network in all files
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
    default = next((groups for groups, recipe in found if _is_default(recipe)), {})
    rows: list[list[object]] = [[DENSE, *[""] * 6, *([dense] * len(labels))]]
    rows += [
        [*_recipe_cells(recipe), *(_mean_and_error(groups[name], default.get(name)) for name in labels)]
        for groups, recipe in found
    ]
    return markdown_table(header, rows)


def _is_default(recipe: Mapping[str, Any]) -> bool:
    """Whether these are the default fine-tuning options for data sets other than digits."""
    from compare.comparison_jobs import OTHERS

    found = {name: recipe.get(name) or 0 for name in ("learning_rate", "schedule", "warmup_epochs", "distill")}
    others = recipe["label_smoothing"] or recipe.get("recalibrate") or recipe["batch_size"] != OTHERS.batch_size
    return found == vars(finetune_defaults("others")) and not others


def _recipe_cells(recipe: Mapping[str, Any]) -> list[object]:
    warmup = f", warm-up {recipe['warmup_epochs']:g}" if recipe["warmup_epochs"] else ""
    own = [recipe["epochs"], recipe["schedule"] + warmup, recipe["learning_rate"], recipe["batch_size"]]
    return [*own, recipe["label_smoothing"] or "", recipe.get("distill") or "", recipe.get("recalibrate") or ""]


def _mean_and_error(group: ResultGroup, default: ResultGroup | None) -> str:
    std = group.std("top1")
    error = f" ± {std / len(group.results) ** 0.5:.2f}" if std is not None else ""
    mark = " *" if default and compare_over_seeds(group, default, "top1") in ("higher", "lower") else ""
    return f"{group.mean('top1'):.2f}{error} ({top1_cell(group).relative}){mark}"


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


def imagenet_tables() -> str:
    """Format the tables of the networks for ImageNet."""
    from compare.paper import imagenet  # imports torch

    return imagenet.all_tables()


def imagenet_short() -> str:
    """Format one target of the networks for ImageNet."""
    from compare.paper import imagenet  # imports torch

    return imagenet.short_table()


def latency_targets() -> str:
    """Format the networks with a latency target next to those with a MACs target."""
    from compare.paper import latency_target  # imports torch

    return latency_target.latency_table()


def deployed_files() -> str:
    """Format what files of each network take, in PyTorch and in ONNX Runtime."""
    from compare.paper import deployment  # imports torch

    return deployment.deployment_table()


def deployed_short() -> str:
    """Format one column per network."""
    from compare.paper import deployment  # imports torch

    return deployment.short_table()


TABLES: dict[str, Callable[[], str]] = {
    "compare.digits": lambda: result_table("digits"),
    "compare.resnet56": lambda: result_table("resnet56"),
    "compare.resnet56-tuned": lambda: result_table("resnet56-tuned"),
    "compare.resnet56-40": lambda: result_table("resnet56-40"),
    "compare.resnet20": lambda: result_table("resnet20"),
    "compare.notes": notes_list,
    "compare.recipe": learning_rate_table,
    "compare.recipes": recipe_table,
    "compare.sweep": sweep_table,
    "compare.imagenet": imagenet_tables,
    "compare.imagenet.short": imagenet_short,
    "compare.latency-target": latency_targets,
    "compare.deployment": deployed_files,
    "compare.deployment.short": deployed_short,
    "compare.resnet56.readme": lambda: short_table("resnet56", complete=False),
    "compare.digits.short": lambda: short_table("digits"),
    "compare.resnet56.short": lambda: short_table("resnet56"),
    "compare.resnet20.short": lambda: short_table("resnet20"),
}


def main(argv: Sequence[str] | None = None) -> int:
    add = lambda folder: add_result(folder, Path(folder).resolve().name)  # noqa: E731
    return tables_command(PACKAGE, README, TABLES, argv, add=add, draw=draw_plots)


def draw_plots() -> list[Path]:
    """Draw the READMEs' plots."""
    found = {name: read_result_file(name) for name in PLOTTED}
    files = {RESULTS / f"{name}.svg": figure_svg(one) for name, one in found.items() if one}
    for file, text in files.items():
        write_text(file, text)
    from compare.paper import imagenet  # imports torch

    return [*files, *imagenet.draw(RESULTS / "imagenet.png")]


if __name__ == "__main__":
    sys.exit(main())
