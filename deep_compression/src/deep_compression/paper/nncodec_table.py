"""Tables of files next to NNCodec's, from ``results/files-*.json`` (``benchmarks/nncodec_files.py``)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from common.runs import read_json

NONE = "No result files yet."
HEADER = (
    "network",
    "file",
    "kB",
    "compression ratio",
    "top-1 (%)",
    "loss (points)",
    "divergence (nats)",
    "same prediction (%)",
    "seconds to write",
    "seconds to read",
)
SIDES = {"nncodec": "NNCodec 2.1.3, parameter", "ours": "this repository, price"}


def files_table(folder: Path) -> str:
    """Format a line per file, each network's largest first."""
    lines = []
    for record in _records(folder):
        dense = record["dense"]
        for row in sorted(record["rows"], key=lambda row: -row["bytes"]):
            lines.append(
                (
                    record["name"],
                    f"{SIDES[row['side']]} {row['setting']:g}",
                    f"{row['bytes'] / 1000:,.0f}",
                    f"{dense['bytes'] / row['bytes']:.1f}x",
                    f"{row['top1']:.2f}",
                    f"{dense['top1'] - row['top1']:.2f}",
                    f"{row['divergence']:.4f}",
                    f"{row['agreement']:.1f}",
                    f"{row['write_seconds']:.1f}",
                    f"{row['read_seconds']:.2f}",
                )
            )
    return markdown_table(HEADER, lines) if lines else NONE


def files_findings(folder: Path) -> str:
    """Say for each network how many bytes ours needs for the divergence of NNCodec's files, and how fast both are read."""
    lines = []
    for record in _records(folder):
        ours, theirs = ([row for row in record["rows"] if row["side"] == side] for side in ("ours", "nncodec"))
        parts = [
            f"{100 * size / row['bytes']:.0f} % of {row['bytes'] / 1000:,.0f} kB"
            for row in sorted(theirs, key=lambda row: -row["bytes"])
            if (size := bytes_at(ours, row["divergence"])) is not None
        ]
        seconds = [f"{statistics.median(row['read_seconds'] for row in rows):.2f}" for rows in (ours, theirs)]
        lines.append(
            f"- {record['name']} (dense {record['dense']['top1']:.2f} %, {record['test_images']:,} test images): at the divergence of NNCodec's files, ours have"
            f" {', '.join(parts) or 'no comparable size'}; reading one takes {seconds[0]} s, NNCodec's {seconds[1]} s (medians)."
        )
    return "\n".join(lines) if lines else NONE


def bytes_at(rows: Sequence[dict[str, Any]], divergence: float) -> float | None:
    """Return the bytes at a divergence, on the line through two files in logarithms; None outside of them."""
    known = sorted((row["divergence"], row["bytes"]) for row in rows)
    for (low, large), (high, small) in pairwise(known):
        if low <= divergence <= high:
            part = math.log(divergence / low) / math.log(high / low)
            return math.exp((1 - part) * math.log(large) + part * math.log(small))
    return None


def _records(folder: Path) -> list[dict[str, Any]]:
    return sorted((read_json(path) for path in folder.glob("files-*.json")), key=lambda record: record["name"])
