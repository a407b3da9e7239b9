"""Generate the tables of common's README from ``results/*.json``: ``python -m common.paper.tables [--check]``."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import tables_command
from common.runs import read_json

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
CIFAR10 = 50_000  # training images
RESULTS, README = HOME / "results", HOME / "README.md"


def epoch_table(folder: Path) -> str:
    """Format seconds per epoch and images per second by network, batch size and execution mode."""
    lines = []
    for file in sorted(folder.glob("epochs-*.json")):
        for row in read_json(file)["rows"]:
            graph = "CUDA graph" if row["graph"] == "auto" else "eager"
            images = f"{CIFAR10 / row['seconds']:,.0f}"
            lines.append([row["network"], row["batch"], graph, f"{row['seconds']:.2f}", images, row["device"]])
    return markdown_table(
        ["network", "batch size", "execution", "time per epoch (s)", "images per second", "device"], lines
    )


TABLES: dict[str, Callable[[], str]] = {
    "common.speed": lambda: speed_table(RESULTS),
    "common.epochs": lambda: epoch_table(RESULTS),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Regenerate the tables and return an exit status."""
    return tables_command("common", README, TABLES, argv)


if __name__ == "__main__":
    sys.exit(main())
