"""The paper's table of a compressed network, layer by layer (tables 2 to 5), from the file's own account.

Columns as in the paper: weights; weights% after pruning (P); bits per weight after sharing (P+Q) and Huffman coding (P+Q+H);
bits per index the same; compression rate P+Q and P+Q+H, in percent of the dense float32 size.
P+Q is computed from the indices before entropy coding; P+Q+H is what the file holds, codebooks and tables included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from deep_compression.compressed import Account, TensorAccount
from deep_compression.tensors import item_size


@dataclass(frozen=True)
class LayerRow:
    """One line of the table; bits are means per stored entry, rates percent of the dense size of the layer."""

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


def layer_rows(account: Account) -> list[LayerRow]:
    """A row for each tensor that is coded on its own."""
    return [_row(t) for t in account.tensors if t.form != "raw"]


def _row(t: TensorAccount) -> LayerRow:
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


def total_row(account: Account) -> LayerRow:
    """All coded layers together; the last two columns are of the whole file, everything counted, over the dense weights."""
    coded = [t for t in account.tensors if t.form != "raw"]
    rows = layer_rows(account)
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
        100 * account.bytes / dense,
        account.bytes,
    )


HEADER = (
    "layer",
    "weights",
    "weights% (P)",
    "weight bits (P+Q)",
    "weight bits (P+Q+H)",
    "index bits (P+Q)",
    "index bits (P+Q+H)",
    "rate % (P+Q)",
    "rate % (P+Q+H)",
    "bytes",
)


def layer_table(account: Account) -> str:
    """The table in Markdown, which also reads well as text."""
    return markdown_table(HEADER, [_cells(row) for row in [*layer_rows(account), total_row(account)]])


def _cells(row: LayerRow) -> Sequence[object]:
    rate = (
        f"{row.rate_coded:.2f} ({100 / max(row.rate_coded, 1e-9):.1f}x)"
        if row.name == "total"
        else f"{row.rate_coded:.2f}"
    )
    return (
        row.name,
        f"{row.weights:,}",
        f"{row.density:.2f}",
        f"{row.weight_bits:.1f}",
        f"{row.weight_bits_coded:.2f}",
        f"{row.index_bits:.1f}",
        f"{row.index_bits_coded:.2f}",
        f"{row.rate_shared:.2f}",
        rate,
        f"{row.bytes:,}",
    )


def byte_table(account: Account) -> str:
    """Where every byte of the file goes; the rows sum to the file's size."""
    rows = [(name, f"{size:,}", f"{100 * size / account.bytes:.2f}") for name, size in account.by_category.items()]
    return markdown_table(("bytes of the file", "number", "%"), [*rows, ("total", f"{account.bytes:,}", "100.00")])


def as_json(account: Account) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "bytes": account.bytes,
        "dense_bytes": account.dense_bytes,
        "by_category": account.by_category,
        "about": account.about,
        "layers": [asdict(row) for row in layer_rows(account)],
        "total": asdict(total_row(account)),
    }


def as_text(path: Path | str, account: Account) -> str:
    raw = sum(t.bytes for t in account.tensors if t.form == "raw")
    return "\n".join(
        [
            f"{path}: {account.bytes:,} bytes on disk for {account.dense_bytes:,} bytes of tensors "
            f"({account.dense_bytes / account.bytes:.1f}x)",
            "",
            layer_table(account),
            byte_table(account),
            f"{raw:,} bytes of tensors (biases, norms, counters) are kept as they are; bits are means over stored entries, fillers included.",
        ]
    )
