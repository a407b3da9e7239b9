"""No number in a README is typed by hand: its tables are what the result files give, here and in the root's README."""

from pathlib import Path

import pytest

from common.results import stale_blocks
from compare.tables import TABLES

PACKAGE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("readme", [PACKAGE / "README.md", PACKAGE.parent / "README.md"], ids=["package", "root"])
def test_tables_show_what_the_result_files_hold(readme):
    assert stale_blocks(readme, TABLES) == []
