"""Latency in README tables: a percentage of the dense network's in every row, and the dense milliseconds stated once."""

from collections.abc import Iterable, Mapping
from typing import Any

LATENCY_COLUMNS = ["latency vs dense, batch 1 (%)", "latency vs dense, batch 64 (%)"]
BATCHES = ("1", "64")


def latency_cells(run: Mapping[str, Any]) -> list[str]:
    """Return the cells of :data:`LATENCY_COLUMNS` for a run's metrics; a network slower than the dense one is called slower."""
    dense, small = (run[network].get("latency_ms") for network in ("baseline", "compressed"))
    if not dense:
        return [""] * len(BATCHES)
    percent = [round(100 * small[batch] / dense[batch]) for batch in BATCHES]
    return [f"{value} (slower)" if value > 100 else str(value) for value in percent]


def dense_latency_note(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a paragraph with the milliseconds of the dense networks, for below the table; empty if none was timed."""
    timed = [run["baseline"]["latency_ms"] for run in runs if run["baseline"].get("latency_ms")]
    times = "; ".join(f"{ms['1']:.1f} / {ms['64']:.0f}" for ms in timed)
    return f"\nDense networks take, in the order of the rows, {times} ms for batches of 1 / 64 images." if timed else ""
