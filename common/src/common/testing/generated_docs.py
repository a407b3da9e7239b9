"""Check that generated parts of documents are up to date."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from common.reporting.results import block_names, shared_pages, stale_blocks


def source_folder(package: str) -> Path:
    """Return the folder of a package's modules in a checkout."""
    return Path(importlib.import_module(package).__file__ or "").resolve().parent


def check_generated_docs(package: str, tables: Mapping[str, Callable[[], str]]) -> None:
    """Check that the tables in a package's README, in the root's README and in ``docs/`` match the result files."""
    readme = source_folder(package).parents[1] / "README.md"
    shown: set[str] = set()
    for file in (readme, *shared_pages(readme)):
        stale = stale_blocks(file, tables)
        assert not stale, f"{file}: {stale} are not up to date: python -m {package}.paper.tables"
        shown |= set(block_names(file))
    assert set(tables) <= shown, f"{set(tables) - shown}: no page shows these tables"
