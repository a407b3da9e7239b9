"""Format the values of the tables: with their noise, and relative to the dense network.

All tables of a comparison (terminal, report.md, report.html, READMEs) consist of the rows of :func:`table_rows`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.options import LATENCY_BATCHES
from common.timing import relative_text
from compare.result_set import (
    ResultGroup,
    ResultSet,
    binomial_error,
    chain_groups,
    latency_record,
    single_method_groups,
)
from compare.significance import latency_verdict

DENSE = "dense baseline"
BATCHES = tuple(map(str, LATENCY_BATCHES))  # as in the files of results
MARK = " (!)"
SIZES = ("macs", "nonzero_params", "bytes")
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
    "latency, batch 1",
    "latency, batch 64",
)
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
SMALL_STD = 5e-4  # standard deviations of sizes below this fraction of the mean are not shown


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The value, with its noise.
        relative: The value relative to the dense network; empty if there is none.
        value: Number by which the page sorts.
    """

    text: str = ""
    relative: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.relative})" if self.relative else self.text


@dataclass(frozen=True)
class Row:
    """A row of a table, with one cell per entry of COLUMNS; ``group`` is None for the dense network."""

    cells: tuple[Cell, ...]
    group: ResultGroup | None = None


def table_rows(result_set: ResultSet, groups: Sequence[ResultGroup] | None = None) -> list[Row]:
    """Return the rows of a table: the dense network, then these groups, or each method at each target and each step of a chain."""
    shown = [*single_method_groups(result_set), *chain_groups(result_set)] if groups is None else groups
    sides = dense_sides(result_set)
    return [Row(_dense_cells(result_set)), *(Row(tuple(_cells(group, sides)), group) for group in shown)]


def dense_sides(result_set: ResultSet) -> list[dict[str, Any]]:
    """Return the metrics of the dense networks; those in the first result if their own files are missing."""
    return [dense["baseline"] for dense in result_set.baselines] or [result_set.results[0]["baseline"]]


def dense_top1(result_set: ResultSet) -> str:
    """Format the accuracy of the dense networks, with its noise."""
    return _dense_cells(result_set)[3].text


def _dense_cells(result_set: ResultSet) -> tuple[Cell, ...]:
    sides = dense_sides(result_set)
    tops = [side["top1"] for side in sides]
    count = ResultGroup(tuple(result_set.results)).test_images
    noise = statistics.stdev(tops) if len(tops) > 1 else binomial_error(tops[0], count) if count else None
    top1 = Cell(with_noise(statistics.mean(tops), noise), value=statistics.mean(tops))
    sizes = [_size(name, [side[name] for side in sides], sides[0][name], 1.0) for name in SIZES]
    times = (_dense_ms(sides, batch) if _is_timed(result_set, batch) else None for batch in BATCHES)
    latency = [Cell() if ms is None else Cell(f"{ms:,.1f} ms", "100 %", 1.0) for ms in times]
    return (Cell(DENSE), Cell(), Cell(str(len(sides))), top1, Cell(), Cell(), *sizes, *latency)


def _is_timed(result_set: ResultSet, batch: str) -> bool:
    return any(latency_record(result, batch) is not None for result in result_set.results)


def _dense_ms(sides: Sequence[Mapping[str, Any]], batch: str) -> float | None:
    times = [side["latency_ms"][batch] for side in sides if batch in side.get("latency_ms", {})]
    return statistics.mean(times) if times else None


def _cells(group: ResultGroup, sides: Sequence[Mapping[str, Any]]) -> list[Cell]:
    target = group.first["target"] or 0.0
    top1 = top1_cell(group)
    tuned = [top1_cell(group, "pruned_top1"), top1] if group.finetuned else [top1, Cell(value=top1.value)]
    return [
        Cell(group.name + MARK * group.missed),
        Cell(format_target(group), value=-target if group.first["axis"] == "bytes" else target),
        Cell(str(len(group.results))),
        *tuned,
        Cell(format_accuracy(group, "agreement"), value=group.mean("agreement")),
        *(_size(name, _measured(group, name), sides[0][name], group.fraction_kept(name)) for name in SIZES),
        *(latency_cell(group, batch, _dense_ms(sides, batch)) for batch in BATCHES),
    ]


def _measured(group: ResultGroup, name: str) -> list[float]:
    return [float(result["compressed"][name]) for result in group.results]


def top1_cell(group: ResultGroup, metric: str = "top1", digits: int = 2) -> Cell:
    """Format an accuracy and its difference from the dense network's, in points."""
    difference = f"{group.mean_difference(metric):+.{digits}f}".replace("-", "−")
    return Cell(format_accuracy(group, metric, digits), difference, group.mean(metric))


def format_accuracy(group: ResultGroup, metric: str, digits: int = 2) -> str:
    """Format a percentage of the test images: "98.20 ± 0.20"; without the noise if it is unknown."""
    return with_noise(group.mean(metric), group.noise(metric), digits)


def with_noise(value: float, noise: float | None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" + ("" if noise is None else f" ± {noise:.{digits}f}")


def _size(name: str, values: Sequence[float], dense: float, fraction: float | None) -> Cell:
    """Format MACs, parameters or bytes (the name) in a unit that fits the dense network's, and as a percentage of the dense network's."""
    scale, unit = next(((one, name) for one, name in UNITS if dense >= 10 * one), UNITS[-1])
    digits = max(1, 3 - int(math.log10(max(1.0, dense / scale)))) if unit else 0
    mean, std = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    spread = f" ± {std / scale:,.{digits}f}" if std > SMALL_STD * mean else ""
    text = f"{mean / scale:,.{digits}f}{spread} {unit}{'B' * (name == 'bytes')}".rstrip()
    return Cell(text, "" if fraction is None else format_percent(fraction), mean)


def format_percent(fraction: float) -> str:
    """Format a fraction as a percentage with three significant digits: "49.9 %", "2.99 %"."""
    percent = 100 * fraction
    return f"{percent:,.{max(0, 2 - max(0, int(math.log10(max(percent, 1e-9)))))}f} %"


def latency_cell(group: ResultGroup, batch: str, dense_ms: float | None) -> Cell:
    """Format a latency: "137.3 ms (75 ± 1 %)".

    Measured is the percentage: the network is timed alternately with the dense network. Milliseconds measured at different
    times depend more on the machine's load than on the network, so those shown are the percentage of the dense network's.
    """
    text, metric = format_latency(group, batch), f"latency{batch}_kept"
    if not group.has(metric):
        return Cell(text)
    value = group.mean(metric)
    return Cell(f"{value * dense_ms:,.1f} ms", text, value) if dense_ms else Cell(text, value=value)


def format_latency(group: ResultGroup, batch: str) -> str:
    """Format a latency as a percentage of the dense network's: "75 ± 1 %", "109 ± 3 %, slower", "as dense ± 3 %", "busy machine".

    The spread is the standard deviation over the seeds; of a single network, that of the interval which contains the median with a
    probability of 95 %. It stands in place of the value where the two networks do not differ.
    """
    metric = f"latency{batch}_kept"
    if not group.has(metric):
        records = [record for result in group.results if (record := latency_record(result, batch))]
        return relative_text(records[0] if records else None)
    std, value = group.std(metric), 100 * group.mean(metric)
    record = latency_record(group.first, batch)
    if std is None and record is not None:
        std = max(record["high"] - record["ratio"], record["ratio"] - record["low"])
    spread = "" if std is None else f" ± {100 * std:.0f}"
    if latency_verdict(group, batch) not in ("higher", "lower"):
        return f"as dense{spread} %" if spread else "as dense"
    return f"{value:.0f}{spread} %" + (", slower" if value > 100 else "")


def format_target(group: ResultGroup) -> str:
    """Format the target of a group: "50 % MACs"; for a chain, its targets at the end and the number of the step."""
    names, chain = {"macs": "MACs", "latency": "latency", "bytes": "bytes"}, group.first["chain"]
    aims = (
        f"{100 * target:g} % {names[axis]}" for axis, target in sorted(group.first["targets"].items(), reverse=True)
    )
    return ", ".join(aims) + (f" (step {group.first['step']} of {len(chain)})" if chain else "")
