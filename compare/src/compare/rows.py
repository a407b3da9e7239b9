"""The rows of a comparison as they lie on disk, and their means and deviations over the seeds."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.runs import CONFIG, METRICS, read_json
from compare.settings import PACKAGE

Row = dict[str, Any]
Read = Callable[[Row], float | None]

# What a row measures: name in results.csv -> where it stands in metrics.json. Latencies are milliseconds per batch.
MEASURES: dict[str, Read] = {
    "dense_top1": lambda row: row["baseline"]["top1"],
    "cut_top1": lambda row: row["after_cut"]["top1"],
    "cut_agreement": lambda row: row["after_cut"]["agreement"],
    "top1": lambda row: row["compressed"]["top1"],
    "agreement": lambda row: row["compressed"]["agreement"],
    "macs": lambda row: row["compressed"]["macs"],
    "macs_kept": lambda row: row["kept"]["macs"],
    "params": lambda row: row["compressed"]["params"],
    "nonzero_params": lambda row: row["compressed"]["nonzero_params"],
    "bytes": lambda row: row["compressed"]["bytes"],
    "bytes_kept": lambda row: row["kept"]["bytes"],
    "ms_batch1": lambda row: row["compressed"].get("latency_ms", {}).get("1"),
    "ms_batch64": lambda row: row["compressed"].get("latency_ms", {}).get("64"),
    "latency1_kept": lambda row: _latency(row, "1"),
    "latency64_kept": lambda row: _latency(row, "64"),
    "seconds": lambda row: row["seconds"],
}


def _latency(row: Row, batch: str) -> float | None:
    """Fraction of the dense network's milliseconds, timed alternately; None where latency was not measured."""
    now, dense = (row[side].get("latency_ms", {}).get(batch) for side in ("compressed", "baseline"))
    return None if now is None or dense is None else now / dense


@dataclass(frozen=True)
class Rows:
    """out: the comparison's folder; metrics: finished rows, each with its ``folder`` and ``config``; refused: what could not be."""

    out: Path
    metrics: list[Row]
    baselines: list[Row]
    refused: list[Row]


@dataclass(frozen=True)
class Group:
    """The rows of one method (or step of a chain) at one budget, over all seeds."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def label(self) -> str:
        return self.first["label"]

    @property
    def name(self) -> str:
        """A chain's step is called by the chain so far: "ID + DECORE"."""
        return self.first["label_so_far"]

    @property
    def missed(self) -> bool:
        return any(row["missed"] for row in self.rows)

    def has(self, measure: str) -> bool:
        """Whether any row measured it."""
        return bool(self.values(measure))

    def values(self, measure: str) -> list[float]:
        return [float(value) for row in self.rows if (value := MEASURES[measure](row)) is not None]

    def mean(self, measure: str) -> float:
        return statistics.mean(self.values(measure))

    def deviation(self, measure: str) -> float | None:
        """Sample deviation over the seeds; None of one seed."""
        values = self.values(measure)
        return statistics.stdev(values) if len(values) > 1 else None


def read_rows(out: Path) -> Rows:
    """All finished rows below a comparison's folder."""
    files = sorted([*out.glob(f"seed*/*/{METRICS}"), *out.glob(f"seed*/*/step*/{METRICS}")])
    metrics: list[Row] = []
    baselines: list[Row] = []
    for file in [*sorted(out.glob(f"baseline/{METRICS}")), *files]:
        row = read_json(file)
        if row.get("package") != PACKAGE and file.parent.name != "baseline":
            continue
        row |= {"folder": str(file.parent.relative_to(out)), "config": read_json(file.parent / CONFIG)}
        (metrics if "method" in row else baselines).append(row)
    labels = {row["method"]: row["label"] for row in metrics}
    for row in metrics:
        before = row["chain"][: row["step"] - 1] if row["chain"] else []
        row["label_so_far"] = " + ".join([*(labels.get(name, name) for name in before), row["label"]])
    refused = [{**read_json(file), "folder": str(file.parent.relative_to(out))} for file in _refusals(out)]
    return Rows(out, metrics, baselines, refused)


def _refusals(out: Path) -> list[Path]:
    return sorted(out.glob("seed*/*/refused.json"))


def single(rows: Rows) -> list[Group]:
    """Rows of one method, by axis, budget (the largest first), papers before yardsticks, name."""
    return _grouped([row for row in rows.metrics if not row["chain"]])


def chained(rows: Rows) -> list[Group]:
    """Steps of chains, chain by chain."""
    return _grouped([row for row in rows.metrics if row["chain"]])


def _grouped(rows: Iterable[Row]) -> list[Group]:
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    return [Group(tuple(sorted(found[key], key=lambda row: row["seed"]))) for key in sorted(found)]


def _key(row: Row) -> tuple:
    chain = tuple(row["chain"] or ())
    aims = tuple((axis != "macs", -target) for axis, target in sorted(row["targets"].items(), reverse=True))
    return (chain, aims, row["step"] or 0, row["paper"] is None, row["label"], row["method"])


def method_order(groups: Sequence[Group]) -> list[str]:
    """Labels, papers before yardsticks, each once."""
    return list(dict.fromkeys(g.label for g in sorted(groups, key=lambda g: (g.first["paper"] is None, g.label))))


def csv_rows(rows: Rows) -> list[dict[str, Any]]:
    """One line per row and seed, flat."""
    return [
        {
            "method": row["method"],
            "label": row["label_so_far"],
            "chain": "+".join(row["chain"] or []),
            "step": row["step"],
            "seed": row["seed"],
            "axis": row["axis"],
            "target": row["target"],
            "missed": " ".join(row["missed"]),
            "finetune_epochs": row["finetune_epochs"],
            **{name: _number(read(row)) for name, read in MEASURES.items()},
            "weights": row["weights"],
            "trains": row["trains"],
            "commit": row["commit"],
            "folder": row["folder"],
            "command": row["command"],
        }
        for row in rows.metrics
    ]


def _number(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value
