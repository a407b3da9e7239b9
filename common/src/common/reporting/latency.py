"""Latency in tables: a percentage of the dense network's with its spread, or what makes the measurement useless."""

from collections.abc import Iterable, Mapping
from typing import Any

LATENCY_COLUMNS = ["latency vs dense, batch 1 (%)", "latency vs dense, batch 64 (%)"]
BATCHES = ("1", "64")


def relative_cell(record: Mapping[str, Any] | None) -> str:
    """Format a record of :meth:`common.timing.Timing.record`: "81 ± 1", "104 ± 2 (slower)", "as dense (± 3)", "busy machine".

    The spread is that of the interval that contains the median with a probability of 95 %. If it contains 100 %, it is given instead of
    the value; and so is what disturbed the measurement, if anything did.
    """
    if not record:
        return ""
    if record.get("disturbed"):
        return str(record["disturbed"]).split(":")[0]
    value, low, high = (100 * record[key] for key in ("ratio", "low", "high"))
    spread = f"{max(high - value, value - low):.0f}"
    if low <= 100 <= high:
        return f"as dense (± {spread})"
    return f"{value:.0f} ± {spread}" + (" (slower)" if low > 100 else "")


def latency_cells(run: Mapping[str, Any]) -> list[str]:
    """Return the cells of :data:`LATENCY_COLUMNS` for a run's metrics; empty if its latency was not measured with a control."""
    records = run.get("latency") or {}
    return [relative_cell(records.get(batch)) for batch in BATCHES]


def dense_latency_note(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a paragraph with the milliseconds of the dense networks, for below the table; empty if none was timed."""
    timed = [run["baseline"]["latency_ms"] for run in runs if run.get("latency")]
    times = "; ".join(f"{ms['1']:.1f} / {ms['64']:.0f}" for ms in timed)
    return f"\nDense networks take, in the order of the rows, {times} ms for batches of 1 / 64 images." if timed else ""
