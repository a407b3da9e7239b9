"""Describe the records of comparisons for ``python -m common.show``. This module does not import torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.descriptions.description import Description, ratio
from common.descriptions.records import describe_text, rows_table
from common.descriptions.run_records import number, run_facts, table, text
from compare.plan import FAILED, UNREACHABLE_NAMES

LISTED = 24  # rows of the table
SHOWN = {"top1": "top-1 (%)", "agreement": "agreement (%)"}


def describe(path: Path, content: Any) -> Description | None:
    """Describe a target that was not reached, a failure, or the results of a comparison; None for other files."""
    if path.name == FAILED:
        found = describe_text(path, "traceback of a method that failed")
        lines = [row[0] for row in found.tables[0].rows if row[0].strip()] if found.tables else [""]
        return Description(found.kind, tables=found.tables, status=f"failed: {lines[-1]}")
    if not isinstance(content, dict):
        return None
    if path.name in UNREACHABLE_NAMES and isinstance(content.get("reason"), str):
        return _unreachable(content)
    if isinstance(content.get("rows"), list) and isinstance(content.get("baselines"), list):
        return _results(content)
    return None


def _unreachable(content: Mapping[str, Any]) -> Description:
    job = table(content.get("job"))
    methods, targets = job.get("methods"), table(job.get("targets"))
    facts = [("methods", " + ".join(map(str, methods)))] if isinstance(methods, list) else []
    facts += [("target", ", ".join(f"{value} of the {axis}" for axis, value in targets.items()))] if targets else []
    facts.append(("reason", content["reason"]))
    return Description("target that was not reached", facts, status=f"unreachable: {content['reason']}")


def _results(content: Mapping[str, Any]) -> Description:
    """Describe the stored results of a comparison: means over the seeds, a row per method and target."""
    results = [row for row in content["rows"] if isinstance(row, dict)]
    baselines = [row for row in content["baselines"] if isinstance(row, dict)]
    accuracies = [
        f"{value:.2f}" for row in baselines if (value := number(table(row.get("baseline")).get("top1"))) is not None
    ]
    facts = [("network", str(results[0].get("arch"))), ("data", str(results[0].get("dataset")))] if results else []
    facts += [("dense top-1 (%)", ", ".join(accuracies))] if accuracies else []
    facts += run_facts({**content, "options": {"finetune": content.get("finetune")}}, {})
    facts.append(("results", f"{len(results):,}, of {len({str(row.get('label')) for row in results})} methods"))
    missed = content.get("unreachable")
    facts += [("unreachable", f"{len(missed)} targets")] if isinstance(missed, list) and missed else []
    rows = _rows(results)
    tables = [rows_table("means over the seeds", rows, limit=LISTED)] if rows else []
    return Description("results of a comparison", facts, tables=tables)


def _rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per method and target: the means over the seeds, the largest targets and accuracies first."""
    groups: dict[tuple[str, str, tuple[float, ...]], list[Mapping[str, Any]]] = {}
    for result in results:
        targets = {axis: value for axis, value in table(result.get("targets")).items() if number(value) is not None}
        named = ", ".join(f"{100 * value:g} % {axis}" for axis, value in targets.items())
        order: tuple[float, ...] = (
            len(targets),
            "macs" not in targets,
            -sum(targets.values()),
        )  # MACs, then bytes, then chains
        groups.setdefault((text(result.get("label")) or "", named, order), []).append(result)
    rows: list[tuple[tuple[float, ...], dict[str, Any]]] = []
    for (method, target, place), found in groups.items():
        small = [table(result.get("compressed")) for result in found]
        dense = [table(result.get("baseline")) for result in found]
        means = {name: _mean([number(network.get(key)) for network in small]) for key, name in SHOWN.items()}
        for axis in ("macs", "bytes"):
            pairs = zip(small, dense, strict=True)
            means[f"{axis} (%)"] = _mean([ratio(number(s.get(axis)), number(d.get(axis))) for s, d in pairs], 100)
        key = (*place, -(means["top-1 (%)"] or 0))
        rows.append((key, {"method": method, "target": target, "seeds": len(found), **means}))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _mean(values: Sequence[float | None], factor: float = 1.0) -> float | None:
    known = [value for value in values if value is not None]
    return round(factor * sum(known) / len(known), 2) if known else None
