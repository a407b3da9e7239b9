"""Markdown tables for READMEs, reports and terminals."""

import re
from collections.abc import Iterable, Sequence

SEPARATOR = re.compile(r"(?<!\\)\|")  # not escaped
WIDEST = 80  # letters of a cell in a terminal


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table; columns of numbers, empty cells and dashes are right-aligned.

    Cells are converted with ``str``, so the caller chooses the number of digits. ``None`` becomes an empty cell, ``|`` is escaped,
    and a line break becomes a space. Raises ValueError if a row has another length than the header.
    """
    head = [_cell(cell) for cell in header]
    body = [[_cell(cell) for cell in row] for row in rows]
    for row in body:
        if len(row) != len(head):
            raise ValueError(f"row {row}: {len(row)} cells, the header has {len(head)}")
    rules = ["---:" if body and all(map(_is_numeric, column)) else "---" for column in zip(*body, strict=True)]
    lines = [head, rules or ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def pad_table(table: str) -> str:
    """Pad all cells of a Markdown table to the width of their column, for terminals; numbers are right-aligned.

    Cells of more than WIDEST letters are shortened.
    """
    rows = [
        [_shortened(cell.strip()) for cell in SEPARATOR.split(line.strip())[1:-1]] for line in table.split("\n") if line
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [cell.endswith(":") for cell in rows[1]]
    rows[1] = ["-" * (width - 1) + ":" if r else "-" * width for width, r in zip(widths, right, strict=True)]
    cells = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)


def _shortened(cell: str) -> str:
    return cell if len(cell) <= WIDEST else cell[: WIDEST - 3].rstrip("\\") + "..."


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")


def _is_numeric(cell: str) -> bool:
    return cell in ("", "-", "–", "—") or re.match(r"[-+−±<>~]?\d", cell) is not None
