"""What a comparison leaves for its readers: results.csv, report.md, report.html."""

from pathlib import Path

from common.atomic import write_csv, write_text
from compare import page, text
from compare.rows import Rows, csv_rows


def write(out: Path, rows: Rows) -> dict[Path, str]:
    """Write all three, atomically: {file: what it is}."""
    write_csv(out / "results.csv", csv_rows(rows))
    write_text(out / "report.md", text.markdown(rows))
    write_text(out / "report.html", page.html(rows))
    return {
        out / "report.html": "the page: plots, widths, classes, how to make each point again",
        out / "report.md": "the table",
        out / "results.csv": "one line per network",
    }
