"""Describe the candidates of a search for ``python -m common.show``. This module does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.descriptions.description import Description
from common.descriptions.records import FINISHED, rows_table
from common.descriptions.run_records import number, read_record, run_facts, table
from common.runs import CONFIG
from rewarded_metapruning.settings import LATENCY

COLUMNS = ("rank", "top1", "macs", "params", "reward", "generation", "vector")
VECTOR = 40  # letters of a vector


def describe(path: Path, content: Any) -> Description | None:
    """Describe search.json; None for other files."""
    if not isinstance(content, dict) or not isinstance(content.get("candidates"), list) or "generations" not in content:
        return None
    rows = [row for row in content["candidates"] if isinstance(row, dict) and isinstance(row.get("nev"), list)]
    facts = [("network", str(content.get("arch")))] + run_facts(read_record(path.with_name(CONFIG), "options"), content)
    facts += [(name, text) for name, text in _circumstances(content).items() if text]
    facts.append(("candidates", f"{len(rows):,} in {content['generations']} generations"))
    shown = [{**row, "vector": _vector(row["nev"])} for row in rows]
    finished = content.get("finished", True) is True
    kind = f"search of rewarded meta-pruning, {'finished' if finished else 'not finished'}"
    tables = [rows_table("candidates, best first", shown, COLUMNS)] if shown else []
    return Description(kind, facts, tables=tables, status=FINISHED if finished else "unfinished: resumes")


def _circumstances(content: Mapping[str, Any]) -> dict[str, str]:
    budget, net = table(content.get("budget")), content.get("pruning_net")
    limits = [number(budget.get("least")), number(budget.get("most"))]
    known, timed = None not in limits, budget.get("rule") == LATENCY
    latency = table(content.get("latency_target"))
    ratio, asked = number(latency.get("ratio")), number(latency.get("target"))
    return {
        "PruningNet": f"digest {net}" if isinstance(net, str) else "",
        "selected on": str(content.get("selected_on", "")),
        "MACs allowed": f"{limits[0]:,} to {limits[1]:,}, rule {budget.get('rule')}" if known and not timed else "",
        "latency allowed": f"{limits[0]:.4g} to {limits[1]:.4g} of the unpruned network's, as predicted"
        if known and timed
        else "",
        "latency of the best": f"{ratio:.4g} of the unpruned network's, as measured, for a target of {asked:g}"
        if ratio is not None and asked is not None
        else "",
    }


def _vector(entries: list[Any]) -> str:
    text = " ".join(map(str, entries[:VECTOR]))
    return text if len(text) <= VECTOR else f"{text[: VECTOR - 3]}..."
