"""Write the report of a comparison: results.csv, report.md, report.html."""

from pathlib import Path

from common.atomic import write_csv, write_text
from compare import page, text_report
from compare.result_set import LATENCY, ResultSet, check_reported, csv_rows


def write_report(out: Path, result_set: ResultSet) -> dict[Path, str]:
    """Write the three files atomically. Raises UserError for damaged results.

    Returns:
        {file: description}, with the file of the times, if they were measured
    """
    check_reported(result_set)
    write_csv(out / "results.csv", csv_rows(result_set))
    write_text(out / "report.md", text_report.markdown_report(result_set))
    write_text(out / "report.html", page.html_report(result_set))
    files = {
        out / "report.html": "web page: plots, layer widths, accuracy per class, command of each result",
        out / "report.md": "table",
        out / "results.csv": "one row per network",
        out / LATENCY: "times of all networks, with their intervals",
    }
    return {file: about for file, about in files.items() if file.is_file()}
