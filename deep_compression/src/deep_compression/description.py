"""Describe compressed files for ``python -m common.show``, from their headers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.descriptions.description import Bars, Description
from common.descriptions.networks import costs_and_widths, network_facts
from common.descriptions.run_records import records_of_network, run_facts
from common.errors import UserError
from deep_compression.container import MAGIC, Entry, read_header
from deep_compression.elements import count, item_size


def describe(path: Path, content: Any) -> Description | None:
    """Describe a compressed file; None for other files. Raises UserError if it is damaged."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        try:
            about, entries, raw = read_header(file, path.stat().st_size)
        except ValueError as problem:
            raise UserError(f"{path}: {problem}") from problem
    size, dense = path.stat().st_size, sum(map(_dense_bytes, entries))
    config, metrics = records_of_network(path)
    header = {"arch": None, "args": {}} | about
    facts = [*network_facts(header), *(fact for fact in run_facts(config, metrics) if fact[0] != "data")]
    coded = [entry for entry in entries if entry.block]
    facts.append(
        (
            "tensors",
            f"{len(entries):,}: {len(coded):,} compressed, {len(entries) - len(coded):,} together in {raw:,} bytes",
        )
    )
    shapes = {entry.name: entry.shape for entry in entries}
    costs, widths = costs_and_widths(header, shapes, metrics, size, path)
    if not metrics:
        costs = [cost for cost in costs if cost[0] != "bytes of the file"] + [
            ("bytes, and of the tensors without compression", dense, size)
        ]
    widths = [bars for bars in widths if any(full not in (None, kept) for _, kept, full in bars.rows)]
    blocks = [(entry.name.removesuffix(".weight"), entry.block, _dense_bytes(entry)) for entry in coded]
    bars = [*widths, *([Bars("bytes per layer", blocks, "the tensor without compression")] if blocks else [])]
    return Description(f"network compressed by Deep Compression, {size:,} bytes", facts, costs, bars)


def _dense_bytes(entry: Entry) -> int:
    return count(entry.shape) * item_size(entry.code)
