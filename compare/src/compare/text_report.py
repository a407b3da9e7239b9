"""Text reports of a comparison: the table for the terminal, and report.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.markdown import markdown_table, pad_table
from compare.findings import TEST, count_threads, pluralize
from compare.result_set import ResultGroup, ResultRecord, ResultSet, chain_groups, method_key, single_method_groups
from compare.significance import is_above_dense, is_slower

MARK = " (!)"
LATENCIES = ("latency1_kept", "latency64_kept")
ABSENT = "names for --methods"
COLUMNS = (
    "network",
    "target",
    "seeds",
    "top-1 before fine-tuning (%)",
    "top-1 after fine-tuning (%)",
    "agreement (%)",
    "MACs",
    "nonzero params",
    "bytes",
    "latency vs dense, batch 1 (%)",
    "latency vs dense, batch 64 (%)",
)


def terminal_table(result_set: ResultSet) -> str:
    """Format all results as one table, padded for a terminal, with a note on each method below it."""
    notes = "\n".join(method_notes(result_set))
    return f"{pad_table(comparison_table(result_set))}{table_notes(result_set)}\n{notes}"


def comparison_table(result_set: ResultSet) -> str:
    """Format all results as a Markdown table: the dense network, each method at each target, each step of a chain.

    Top-1 of a network that is not fine-tuned is in the column before fine-tuning. Latency is a percentage of the dense
    network's, timed alternately with it: milliseconds that are measured at different times depend more on the machine's
    load than on the network. Those of the dense network are only in its row.
    """
    return markdown_table(COLUMNS, [_dense_row(result_set), *(_row(group) for group in _groups(result_set))])


def _groups(result_set: ResultSet) -> list[ResultGroup]:
    return [*single_method_groups(result_set), *chain_groups(result_set)]


def _dense_row(result_set: ResultSet) -> list[str]:
    sides = [baseline["baseline"] for baseline in result_set.baselines]
    times = [[side["latency_ms"][batch] for side in sides if "latency_ms" in side] for batch in ("1", "64")]
    latency = [f"100 % ({_mean_std(values, 1)} ms)" if values else "" for values in times]
    size = [_mean_std([side[name] for side in sides], 0) for name in ("macs", "nonzero_params", "bytes")]
    return ["dense baseline", "", str(len(sides)), _mean_std([s["top1"] for s in sides], 2), "", "", *size, *latency]


def _row(group: ResultGroup) -> list[str]:
    cells = [group.name + (MARK if group.missed else ""), format_target(group), str(len(group.results))]
    top1 = format_mean_std(group, "top1", 2)
    cells += [format_mean_std(group, "pruned_top1", 2), top1] if group.finetuned else [top1, ""]
    cells += [format_mean_std(group, "agreement", 2)]
    cells += [format_mean_std(group, name, 0) for name in ("macs", "nonzero_params", "bytes")]
    return cells + [format_latency(group, name) if group.has(name) else "" for name in LATENCIES]


def format_latency(group: ResultGroup, metric: str) -> str:
    """Format a latency as a percentage of the dense network's: "75 %", "109 ± 3 % (slower)", "111 ± 7 % (n.s.)"."""
    mark = " (slower)" if is_slower(group, metric) else " (n.s.)" if is_above_dense(group, metric) else ""
    return f"{_mean_std([100 * v for v in group.values(metric)], 0)} %{mark}"


def format_target(group: ResultGroup) -> str:
    """Format the target of a group: "50 % MACs"; for a chain, its targets at the end and the number of the step."""
    names, chain = {"macs": "MACs", "bytes": "bytes"}, group.first["chain"]
    aims = (
        f"{100 * target:g} % {names[axis]}" for axis, target in sorted(group.first["targets"].items(), reverse=True)
    )
    return ", ".join(aims) + (f" (step {group.first['step']} of {len(chain)})" if chain else "")


def format_mean_std(group: ResultGroup, metric: str, digits: int) -> str:
    """Format the mean and the sample standard deviation over the seeds.

    The standard deviation is omitted for a single seed, and for a count that is equal for all seeds.
    """
    return _mean_std(group.values(metric), digits)


def _mean_std(values: Sequence[float], digits: int) -> str:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:,.{digits}f}"
    std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:,.{digits}f}" + (f" ± {std:,.{digits}f}" if std or digits else "")


def table_notes(result_set: ResultSet) -> str:
    """Return the lines below a table: missed and unreachable targets, and methods without a row, each with the reason."""
    lines = []
    if any(result["missed"] for result in result_set.results):
        lines.append("(!) misses the target F: not in [0.98 F, F]")
    if any("(n.s.)" in format_latency(g, name) for g in _groups(result_set) for name in LATENCIES if g.has(name)):
        lines.append("(n.s.) latency above 100 %, but not significantly (paired t-test over the seeds)")
    lines += [f"not in the table ({ABSENT}): {line}" for line in absent_lines(result_set)]
    lines += [f"target not reached: {one['folder']}: {one['reason']}" for one in result_set.unreachable]
    return "".join(f"{line}\n" for line in lines)


def absent_lines(result_set: ResultSet) -> list[str]:
    """Return one line per reason, with the methods that have no results for it."""
    reasons = dict.fromkeys(result_set.absent.values())
    return [
        f"{', '.join(name for name, why in result_set.absent.items() if why == reason)} ({reason})"
        for reason in reasons
    ]


def seeds_note(result_set: ResultSet) -> str:
    """Return a sentence on means and standard deviations."""
    counts = {len(g.results) for g in _groups(result_set)}
    if counts == {1}:
        return "One seed: the standard deviation is unknown, and differences may be due to chance."
    note = "Mean ± sample standard deviation over the seeds"
    note += "; results of a single seed have no standard deviation" if 1 in counts else ""
    return f"{note}. {TEST}"


def method_notes(result_set: ResultSet) -> list[str]:
    """Describe each method in a line: paper, origin of its weights, training before pruning, its own note."""
    return list(dict.fromkeys(_method_note(result) for result in sorted(result_set.results, key=method_key)))


def _method_note(result: ResultRecord) -> str:
    parts = [result["paper"] or "reference method"]
    parts += ["weights generated by another network, not inherited"] * (result["weights"] == "generated")
    parts += ["trains with labels before pruning"] * result["trains"]
    parts += ["targets bytes; not fine-tuned afterwards, which would undo its codes"] * (result["axis"] == "bytes")
    parts += [result["note"]] * bool(result.get("note"))
    return f"{result['label']}: {'; '.join(parts)}"


def _distillation(recipe: Mapping[str, Any]) -> str:
    weight = recipe.get("distill")
    return f", distillation from the dense network with weight {weight:g}" if weight else ""


def markdown_report(result_set: ResultSet) -> str:
    """Format report.md: the table, its conditions, and the commands that reproduce it."""
    first = result_set.results[0]
    environment = first["config"]["environment"]
    last_steps = [r for r in result_set.results if not (r["chain"] and r["step"] < len(r["chain"]))]
    commands = "\n".join(f"    {result['command']}" for result in last_steps)
    recipe = first["config"]["options"]["finetune"]
    return f"""# {first["arch"]} on {first["dataset"]}

{comparison_table(result_set)}
{table_notes(result_set)}
{seeds_note(result_set)} All seeds are reported, and all values are measured on the network reloaded from disk.
Agreement is the fraction of test images on which a network predicts the same class as the dense network.
Fine-tuning, the same for all methods: {pluralize(recipe["epochs"], "epoch")}, batch size {recipe["batch_size"]}, learning rate {recipe["learning_rate"]:g} ({recipe["schedule"]}){_distillation(recipe)}.
Latency: {count_threads(first)} on {environment["device"]}; a percentage of the dense network's, timed alternately with it.

{chr(10).join(f"- {line}" for line in method_notes(result_set))}

## Command of each result (add `--out FOLDER`)

{commands}

Commit {first["commit"]}; Python {environment["python"]}; {", ".join(f"{n} {v}" for n, v in environment["versions"].items())}.
"""
