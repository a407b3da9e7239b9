"""Pages that are made from something else show what it says now."""

from collections.abc import Callable, Mapping

from common.api import page_file, write_page
from common.results import block_names, stale_blocks


def pages_are_current(package: str, tables: Mapping[str, Callable[[], str]]) -> None:
    """API.md is what the source says, README.md links it, and its tables and the root README's are those of the result files."""
    api = page_file(package)
    assert not write_page(package, check=True), f"{api} is not up to date: python -m common.api {package}"
    readme = api.with_name("README.md")
    assert "](API.md)" in readme.read_text(encoding="utf-8"), f"{readme} does not link API.md"
    shown: set[str] = set()
    for file in (readme, api.parents[1] / "README.md"):
        stale = stale_blocks(file, tables)
        assert not stale, f"{file}: {stale} are not up to date: python -m {package}.tables"
        shown |= set(block_names(file))
    assert set(tables) <= shown, f"{set(tables) - shown}: no README shows these tables"
