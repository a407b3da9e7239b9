"""Generated tables are up to date, here and in the README of the root."""

import pytest

from common.testing import check_generated_docs
from decore.paper import tables
from decore.paper.published import PUBLISHED
from decore.paper.tables import TABLES, published_rows, results_table


def test_generated_pages_are_current():
    check_generated_docs("decore", TABLES)


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: f"{table.arch}-{table.source}")
def test_published_rows_are_labeled_and_consistent(table):
    """Printed reductions agree with the printed values, except for one misprint (VGG-16, penalty 100).

    For ResNet-110 they refer to 252.89 M MACs, the value of the network, not to the printed 256.04 M.
    """
    dense = 252.89 if table.arch == "resnet110" else table.macs
    for row, cells in zip(table.rows, published_rows(table), strict=True):
        assert "published" in cells[1] and cells[1] in results_table()
        macs_drop = 100 * (1 - row.macs / dense)
        params_drop = 100 * (1 - row.params / table.params)
        if (table.arch, row.setting, table.source) != ("vgg16", 100, "paper"):
            assert row.macs_drop == pytest.approx(macs_drop, abs=0.5)
        assert row.params_drop == pytest.approx(params_drop, abs=1.5)


def test_unpublished_network_is_last_without_published_rows(monkeypatch):
    dense = {"top1": 90.0, "macs": 200, "params": 100}
    metrics = {
        "baseline": dense,
        "after_cut": dense | {"top1": 50.0},
        "compressed": {"top1": 89.5, "macs": 140, "params": 60},
    }
    own = {"dataset": "digits", "options": {"target_macs": 0.7}, "penalty": 20.0, **metrics}
    monkeypatch.setattr(tables, "_read", lambda pattern: [own | {"arch": arch} for arch in ("resnet20", "vgg16")])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.networks_table().splitlines()[2:]]
    cells = ["90.00", "50.00", "89.50", "0.50", "30.0 %", "40.0 %"]
    assert lines[0] == ["VGG-16 on digits", "this repository, small scale, penalty 20", *cells]
    assert lines[-1] == ["ResNet-20 on digits", "this repository, small scale, penalty 20", *cells]
    assert all("(published)" in line[1] for line in lines[1:-1]) and len(lines) > 3
