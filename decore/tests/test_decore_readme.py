"""No number in a README is typed by hand: its tables are what the result files give, here and in the root's README."""

from pathlib import Path

import pytest

from common.results import block_names, stale_blocks
from decore.published import PUBLISHED
from decore.tables import TABLES, published_rows, results_table

PACKAGE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("readme", [PACKAGE / "README.md", PACKAGE.parent / "README.md"], ids=["package", "root"])
def test_tables_show_what_the_result_files_hold(readme):
    assert stale_blocks(readme, TABLES) == []


def test_the_readme_has_every_table():
    assert set(block_names(PACKAGE / "README.md")) == set(TABLES)


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: f"{table.arch}-{table.source}")
def test_published_rows_are_marked_and_add_up(table):
    """Printed drops are those of the printed figures, but for one that is printed wrong (VGG-16, penalty 100).

    ResNet-110's are drops from 252.89 M, which is what the network has, not from the 256.04 M that is printed.
    """
    dense = 252.89 if table.arch == "resnet110" else table.macs
    for row, cells in zip(table.rows, published_rows(table), strict=True):
        assert "published" in cells[1] and cells[1] in results_table()
        macs_drop = 100 * (1 - row.macs / dense)
        params_drop = 100 * (1 - row.params / table.params)
        if (table.arch, row.penalty, table.source) != ("vgg16", 100, "paper"):
            assert row.macs_drop == pytest.approx(macs_drop, abs=0.5)
        assert row.params_drop == pytest.approx(params_drop, abs=1.5)
