"""The description of a file, and its text for a terminal."""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import printable

Number = int | float
BAR = 24  # characters of the longest bar
SHORTEST_BAR = 4  # characters of the longest bar that is drawn
FACT = 2000  # characters of a fact
LINES = 24  # of a terminal of unknown height
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Bars:
    """Quantities of layers, drawn as bars.

    Attributes:
        title: The quantity, e.g. "channels per layer".
        rows: (layer, quantity in this network, quantity in the dense network or None if it is not known).
        of: The network with the latter quantities.
    """

    title: str
    rows: Sequence[tuple[str, Number, Number | None]]
    of: str = "dense"


@dataclass(frozen=True)
class Table:
    """A table below the facts."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Description:
    """Description of a file.

    Attributes:
        kind: Kind of the file, e.g. "checkpoint".
        facts: (name, text), such as the network, the data set and the command.
        costs: (name, value of the dense network, value of this network); None if it is not known.
        bars: Widths or sizes of layers.
        tables: Further tables.
        status: State of the run that the file records, e.g. "finished"; None if it records none.
    """

    kind: str
    facts: Sequence[tuple[str, str]] = ()
    costs: Sequence[tuple[str, Number | None, Number | None]] = ()
    bars: Sequence[Bars] = ()
    tables: Sequence[Table] = ()
    status: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain data. Numbers that JSON does not have become None."""
        return _plain(asdict(self) | {"facts": dict(self.facts)})


@dataclass(frozen=True)
class Style:
    """How to print: columns and lines of the terminal (None: unlimited), color, letters outside ASCII, and whether nothing
    is left out that does not fit."""

    columns: int | None = None
    lines: int | None = None
    color: bool = False
    unicode: bool = True
    everything: bool = False

    def bold(self, text: str) -> str:
        return f"{BOLD}{text}{PLAIN}" if self.color else text

    def dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.color and text else text


def render(title: str, found: Description, style: Style) -> str:
    """Return the text of a description: facts, costs, tables and bars."""
    blocks = [_heading(f"{printable(title)}: {printable(found.kind)}", style)]
    if found.facts:
        blocks[0] += "\n" + "\n".join(fact_lines(found.facts, style))
    if found.costs:
        blocks.append("\n".join(_cost_lines(found.costs)))
    for table in found.tables:
        blocks.append(
            "\n".join([style.bold(printable(table.title)), *aligned(table.header, table.rows, style.columns)])
        )
    used = sum(block.count("\n") + 2 for block in blocks)
    for bars in found.bars:
        blocks.append("\n".join(bar_lines(bars, style, used)))
    return "\n\n".join(block.rstrip("\n") for block in blocks)


def _heading(text: str, style: Style) -> str:
    return "\n".join(style.bold(line) for line in _wrapped(text, style.columns))


def fact_lines(facts: Sequence[tuple[str, str]], style: Style) -> Iterator[str]:
    """Yield the lines of (name, text); long texts are continued with an indentation."""
    width = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        first, *rest = _wrapped(printable(text[:FACT]), style.columns and style.columns - width)
        yield f"{printable(name):<{width}}{first}"
        yield from (f"{'':<{width}}{line}" for line in rest)


def _wrapped(text: str, columns: int | None) -> list[str]:
    """Split a text between words; a longer word has a line of its own, so that paths can be copied."""
    if columns is None:
        return [text]
    return textwrap.wrap(text, max(columns, 20), break_long_words=False, break_on_hyphens=False) or [""]


def _cost_lines(costs: Sequence[tuple[str, Number | None, Number | None]]) -> list[str]:
    compared = any(dense is not None for _, dense, _ in costs)
    rows = [[name, amount(dense), amount(small), _percent_of(name, small, dense)] for name, dense, small in costs]
    lines = aligned(["", "dense", "this network", ""], rows)
    return lines if compared else aligned(["", "this network"], [[name, amount(small)] for name, _, small in costs])


def _percent_of(name: str, small: Number | None, dense: Number | None) -> str:
    """Return a quantity as percent of the dense network's; empty for one that is in percent already."""
    return "" if "%" in name or ratio(small, dense) is None else f"{100 * (ratio(small, dense) or 0):.1f} %"


def ratio(small: Number | None, dense: Number | None) -> float | None:
    """Return the quotient of two numbers of a file; None if it is not a finite number."""
    try:
        found = small / dense if small is not None and dense is not None else math.nan
    except (ZeroDivisionError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def amount(value: Number | None) -> str:
    """Format a number: integers with separators, others with the digits that matter."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**18 else f"{float(value) if abs(value) < 10**300 else math.inf:.3g}"
    return f"{value:,.2f}" if 0.1 <= abs(value) < 10**15 or value == 0 else f"{value:.3g}"


def bar_lines(bars: Bars, style: Style, used: int = 0) -> Iterator[str]:
    """Yield a title and a line per layer. Similar layers share a line if there are more than the terminal has lines.

    used: Lines of the terminal that are used already.
    """
    rows = list(bars.rows)
    room = max((style.lines or LINES) - used - 3, 12)
    if style.lines is not None and not style.everything:
        rows = _merged(rows, room)
    known = any(dense is not None for *_, dense in rows)
    shorter = 0
    if style.lines is not None and not style.everything and len(rows) > room:
        shorter, rows = len(rows) - room, rows[:room]
    yield style.bold(printable(bars.title) + (f" (kept of {printable(bars.of)})" if known else ""))
    counts = [amount(kept) + (f" of {amount(dense)}" if dense is not None else "") for _, kept, dense in rows]
    after = max([0, *map(len, counts)]) + len("  " * 3 + "100 %")
    limit = style.columns and max(min(style.columns * 2 // 5, style.columns - after), 8)
    names = [shorten_middle(printable(name), limit) if limit else printable(name) for name, *_ in rows]
    largest = max([1, *(max(kept, dense or 0) for _, kept, dense in rows)])
    widths = max([0, *map(len, names)]), max([0, *map(len, counts)])
    bar = BAR if style.columns is None else min(style.columns - widths[0] - after, 2 * BAR)
    for name, count, (_, kept, dense) in zip(names, counts, rows, strict=True):
        percent = ratio(kept, dense)
        share = "" if percent is None else f"{100 * percent:.0f} %"
        yield f"{name:<{widths[0]}}  {count:>{widths[1]}}  {share:>5}  {_bar(kept, dense, largest, bar, style)}".rstrip()
    if shorter:
        yield f"and {shorter} more layers; --all lists all of them"


def _bar(kept: Number, dense: Number | None, largest: Number, width: int, style: Style) -> str:
    """Draw a bar: the kept part, then what was removed. Something that is kept has at least one character."""
    if width < SHORTEST_BAR:
        return ""
    full, rest = ("█", "░") if style.unicode else ("#", ".")
    length = [round(width * (ratio(value, largest) or 0)) for value in (kept, max(kept, dense or 0))]
    length[0] = max(length[0], 1) if kept else 0
    return full * length[0] + style.dim(rest * (max(length[1], 1) - length[0]))


def _merged(rows: Sequence[tuple[str, Number, Number | None]], room: int) -> list[tuple[str, Number, Number | None]]:
    """Add up layers whose names differ in a number, "layer1.0.conv1" and "layer1.1.conv1", until there are few lines."""
    found = list(rows)
    for position in ("last", "every"):
        if len(found) <= room:
            break
        sums: dict[str, list[tuple[Number, Number | None]]] = {}
        for name, kept, dense in rows:
            sums.setdefault(_pattern(name, position), []).append((kept, dense))
        found = []
        for name, parts in sums.items():
            total = None if any(dense is None for _, dense in parts) else sum(dense or 0 for _, dense in parts)
            label = name if len(parts) == 1 else f"{name} ({len(parts)})"
            found.append((label, sum(kept for kept, _ in parts), total))
    return found


def _pattern(name: str, position: str) -> str:
    """Replace the last number between dots, or every number, by a star."""
    numbers = list(re.finditer(r"(?<=\.)\d+(?=\.)", name))
    if position == "every":
        return re.sub(r"\d+", "*", name)
    return name if not numbers else f"{name[: numbers[-1].start()]}*{name[numbers[-1].end() :]}"


def shorten_middle(text: str, limit: int, gap: str = "...") -> str:
    """Shorten a long name in the middle: its ends distinguish layers and runs."""
    if len(text) <= limit:
        return text
    tail = max((limit - len(gap)) * 2 // 3, 0)
    return text[: max(limit - len(gap) - tail, 0)] + gap + text[len(text) - tail :]


def natural_key(value: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by value: "seed10" after "seed9"."""
    parts: list[tuple[int, str]] = []
    word = ""
    for letter in value:
        if word and letter.isdecimal() != word[-1].isdecimal():
            parts.append((len(word) if word.isdecimal() else 0, word))
            word = ""
        word += letter
    return [*parts, (len(word) if word.isdecimal() else 0, word)]


def aligned(header: Sequence[str], rows: Sequence[Sequence[Any]], columns: int | None = None) -> list[str]:
    """Return the lines of a table, numbers to the right. columns: shorten the widest texts to fit; None: unlimited."""
    table = [[printable("" if cell is None else cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    right = [bool(rows) and all(map(_is_number, column[1:])) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [shorten_middle(c, w) for c, w in zip(row, widths, strict=True)]
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _is_number(cell: str) -> bool:
    return cell == "" or re.match(r"[-+]?\d", cell) is not None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
