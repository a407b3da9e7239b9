"""The tables of common's README, made from ``results/*.json``: ``python -m common.tables``; ``--check`` writes nothing."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.benchmark import speed_table
from common.results import tables_command

HOME = Path(__file__).resolve().parents[2]  # the package's folder in a checkout
RESULTS, README = HOME / "results", HOME / "README.md"
TABLES: dict[str, Callable[[], str]] = {"common.speed": lambda: speed_table(RESULTS)}


def main(argv: Sequence[str] | None = None) -> int:
    return tables_command("common", README, TABLES, argv)


if __name__ == "__main__":
    sys.exit(main())
