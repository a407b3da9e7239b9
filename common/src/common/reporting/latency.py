"""Latency in tables: a percentage of the dense network's with its spread, or what makes the measurement useless."""

from collections.abc import Iterable, Mapping
from typing import Any

from common.timing import relative_text

LATENCY_COLUMNS = ["latency vs dense, batch 1 (%)", "latency vs dense, batch 64 (%)"]
BATCHES = ("1", "64")


def latency_cells(run: Mapping[str, Any]) -> list[str]:
    """Return the cells of :data:`LATENCY_COLUMNS` for a run's metrics; empty if its latency was not measured with a control."""
    records = run.get("latency") or {}
    return [relative_text(records.get(batch)) for batch in BATCHES]


def dense_latency_note(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a paragraph with the milliseconds of the dense networks, for below the table; empty if none was timed."""
    timed = [run["baseline"]["latency_ms"] for run in runs if run.get("latency")]
    times = "; ".join(f"{ms['1']:.1f} / {ms['64']:.0f}" for ms in timed)
    return f"\nDense networks take, in the order of the rows, {times} ms for batches of 1 / 64 images." if timed else ""
