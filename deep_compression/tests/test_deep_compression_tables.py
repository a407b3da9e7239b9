"""The README's tables are those of the result files."""

from pathlib import Path

import pytest

from common.results import block_names, replace_block
from deep_compression import tables

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", sorted(tables.TABLES))
def test_the_readme_shows_what_the_result_files_hold(name):
    assert name in block_names(README)
    assert not replace_block(README, name, tables.TABLES[name](), check=True)


def test_tables_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert {make() for make in tables.TABLES.values()} == {tables.NONE, "Not measured yet."}
