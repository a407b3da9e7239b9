"""Size tables of a compressed network by layer, as the paper's tables 2 to 5, from the report of the file's size.

Columns as in the paper: weights; remaining weights after pruning (P), in percent; bits per weight after quantization (P+Q) and
Huffman coding (P+Q+H); bits per position index likewise; compressed size (P+Q, P+Q+H) in percent of the dense float32 size.
P+Q is computed from the indices before entropy coding; P+Q+H is the size in the file, codebooks and tables included. The total
is that of the weights, as in the paper; the file also has a header, biases and other tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from deep_compression.compressed import SizeReport, TensorSize
from deep_compression.elements import item_size


@dataclass(frozen=True)
class LayerRow:
    """A row of the table. Bits are means per stored entry; rates are percent of the layer's dense size."""

    name: str
    weights: int
    density: float
    weight_bits: float
    weight_bits_coded: float
    index_bits: float
    index_bits_coded: float
    rate_shared: float
    rate_coded: float
    bytes: int


def layer_rows(report: SizeReport) -> list[LayerRow]:
    """Return a row for each tensor with a block of its own."""
    return [_row(t) for t in report.tensors if t.form != "raw"]


def _row(t: TensorSize) -> LayerRow:
    entries = max(1, t.entries)
    dense = t.elements * item_size(t.dtype)
    book = t.by_category.get("codebooks", 0)
    shared = (t.entries * (t.weight_bits + t.gap_bits) + 7) // 8 + book
    return LayerRow(
        t.name.removesuffix(".weight"),
        t.elements,
        100 * t.nonzero / max(1, t.elements),
        t.weight_bits,
        t.weight_payload_bits / entries,
        t.gap_bits,
        t.gap_payload_bits / entries,
        100 * shared / dense,
        100 * t.bytes / dense,
        t.bytes,
    )


def total_row(report: SizeReport) -> LayerRow:
    """Return the totals of all encoded layers: weights, positions, codebooks and code tables."""
    coded = [t for t in report.tensors if t.form != "raw"]
    rows = layer_rows(report)
    weights = sum(t.elements for t in coded)
    entries = max(1, sum(t.entries for t in coded))
    dense = max(1, sum(t.elements * item_size(t.dtype) for t in coded))
    return LayerRow(
        "total",
        weights,
        100 * sum(t.nonzero for t in coded) / max(1, weights),
        sum(t.weight_bits * t.entries for t in coded) / entries,
        sum(t.weight_payload_bits for t in coded) / entries,
        sum(t.gap_bits * t.entries for t in coded) / entries,
        sum(t.gap_payload_bits for t in coded) / entries,
        sum(row.rate_shared * t.elements * item_size(t.dtype) for row, t in zip(rows, coded, strict=True)) / dense,
        100 * sum(row.bytes for row in rows) / dense,
        sum(row.bytes for row in rows),
    )


HEADER = (
    "layer",
    "weights",
    "remaining weights (P, %)",
    "weight bits (P+Q)",
    "weight bits (P+Q+H)",
    "index bits (P+Q)",
    "index bits (P+Q+H)",
    "compressed size (P+Q, %)",
    "compressed size (P+Q+H, %)",
    "bytes",
)


def layer_table(report: SizeReport) -> str:
    """Format the table by layer in Markdown."""
    return markdown_table(HEADER, [_cells(row) for row in [*layer_rows(report), total_row(report)]])


def _cells(row: LayerRow) -> Sequence[object]:
    ratio = f" ({100 / max(row.rate_coded, 1e-9):.1f}x)" if row.name == "total" else ""
    return (
        row.name,
        f"{row.weights:,}",
        f"{row.density:.2f}",
        f"{row.weight_bits:.1f}",
        f"{row.weight_bits_coded:.2f}",
        f"{row.index_bits:.1f}",
        f"{row.index_bits_coded:.2f}",
        f"{row.rate_shared:.2f}",
        f"{row.rate_coded:.2f}{ratio}",
        f"{row.bytes:,}",
    )


def byte_table(report: SizeReport) -> str:
    """Format the bytes of the file by category; the rows sum to the file's size."""
    rows = [(name, f"{size:,}", f"{100 * size / report.bytes:.2f}") for name, size in report.by_category.items()]
    return markdown_table(("part of the file", "bytes", "%"), [*rows, ("total", f"{report.bytes:,}", "100.00")])


def as_json(report: SizeReport) -> dict[str, Any]:
    """Convert the report to JSON data."""
    return {
        "bytes": report.bytes,
        "dense_bytes": report.dense_bytes,
        "by_category": report.by_category,
        "about": report.about,
        "layers": [asdict(row) for row in layer_rows(report)],
        "total": asdict(total_row(report)),
    }


def as_text(path: Path | str, report: SizeReport) -> str:
    """Format the report as text with both tables."""
    raw = sum(t.bytes for t in report.tensors if t.form == "raw")
    return "\n".join(
        [
            f"{path}: {report.bytes:,} bytes on disk for {report.dense_bytes:,} bytes of tensors "
            f"({report.dense_bytes / report.bytes:.1f}x)",
            "",
            layer_table(report),
            byte_table(report),
            f"{raw:,} bytes of tensors (biases, normalization layers, counters) are not encoded. Bits are means over stored entries, fillers included.",
        ]
    )
