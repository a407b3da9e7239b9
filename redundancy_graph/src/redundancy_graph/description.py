"""Describe prune-info files and their reports for ``python -m common.show``. This module does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.descriptions.description import Bars, Description, Number
from common.descriptions.records import FINISHED, describe_table
from common.descriptions.run_records import number, read_record, run_facts
from common.errors import UserError
from common.runs import CONFIG
from redundancy_graph.settings import REPORT

KEPT, REMOVED = "saved_idxs", "mask_num"


def describe(path: Path, content: Any) -> Description | None:
    """Describe prune info or its report; None for other files. Raises UserError for a damaged file."""
    if not isinstance(content, dict) or not content:
        return None
    if any(isinstance(entry, dict) and KEPT in entry and REMOVED in entry for entry in content.values()):
        return _prune_info(path, content)
    if {"threshold", "dense_macs", "macs", "layers"} <= content.keys():
        return _report(path, content)
    return None


def _prune_info(path: Path, content: Mapping[str, Any]) -> Description:
    rows: list[tuple[str, Number, Number | None]] = []
    for layer, entry in content.items():
        kept, removed = (entry.get(KEPT), number(entry.get(REMOVED))) if isinstance(entry, dict) else (None, None)
        if not isinstance(kept, list) or removed is None or removed < 0:
            raise UserError(f"{path}: damaged: layer {layer} has no list {KEPT} and number {REMOVED}")
        rows.append((layer, len(kept), len(kept) + removed))
    kept, filters = sum(row[1] for row in rows), sum(row[2] or 0 for row in rows)
    report = read_record(path.with_suffix("") / REPORT, "threshold", "layers")
    facts, costs = _facts(report, path.with_suffix("")) if report else ([], [])
    facts.append(("filters", f"{kept:,} of {filters:,} kept in {len(rows)} layers"))
    return Description("prune info of a redundancy graph", facts, costs, [Bars("filters per layer", rows)])


def _report(path: Path, content: Mapping[str, Any]) -> Description:
    facts, costs = _facts(content, path.parent)
    found = describe_table(path, {"layers": content["layers"]})
    return Description("report on prune info of a redundancy graph", facts, costs, found.bars, status=FINISHED)


def _facts(
    report: Mapping[str, Any], folder: Path
) -> tuple[list[tuple[str, str]], list[tuple[str, Number | None, Number | None]]]:
    config = read_record(folder / CONFIG, "options")
    facts = [
        (name, str(report[name]))
        for name in ("arch", "weights", "shortcut", "threshold", "coverage")
        if report.get(name)
    ]
    known = {name for name, _ in facts}
    facts += [fact for fact in run_facts(config, report) if fact[0] not in known]
    costs = [("MACs", number(report.get("dense_macs")), number(report.get("macs")))]
    costs += (
        [("parameters", number(report.get("dense_params")), number(report.get("params")))] if "params" in report else []
    )
    return facts, costs
