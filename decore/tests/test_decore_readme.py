"""What is generated is up to date: tables from the result files, here and in the root's README, and API.md from the source."""

import pytest

from common.testing import pages_are_current
from decore.published import PUBLISHED
from decore.tables import TABLES, published_rows, results_table


def test_generated_pages_are_current():
    pages_are_current("decore", TABLES)


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
