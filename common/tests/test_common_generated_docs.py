"""Generated tables are up to date, and outdated ones are detected."""

import pytest

from common.paper.tables import TABLES
from common.testing import check_generated_docs


def test_outdated_tables_raise(tmp_path, monkeypatch):
    source = tmp_path / "apaper" / "src" / "apaper"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text('"""A paper."""\n')
    monkeypatch.syspath_prepend(str(source.parent))
    readme, root = tmp_path / "apaper" / "README.md", tmp_path / "README.md"
    block = "<!-- results:{0}:begin -->\n\n{1}\n\n<!-- results:{0}:end -->\n"
    tables = {"a": lambda: "1", "b": lambda: "2"}
    readme.write_text(block.format("a", "1"))
    root.write_text(block.format("b", "2"))
    check_generated_docs("apaper", tables)
    for file, text, message in (
        (readme, block.format("a", "3"), r"\['a'\] are not up to date"),
        (root, block.format("b", "3"), r"\['b'\] are not up to date"),
        (root, "", r"{'b'}: no page shows"),
    ):
        correct = file.read_text()
        file.write_text(text)
        with pytest.raises(AssertionError, match=message):
            check_generated_docs("apaper", tables)
        file.write_text(correct)


def test_generated_tables_are_up_to_date():
    check_generated_docs("common", TABLES)
