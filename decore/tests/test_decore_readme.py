"""Generated tables are up to date, here and in the README of the root."""

import re

import pytest

from common.testing import check_generated_docs
from decore.paper import tables
from decore.paper.published import PUBLISHED
from decore.paper.tables import TABLES, published_rows, results_table


def test_generated_pages_are_current():
    check_generated_docs("decore", TABLES)


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: f"{table.arch}-{table.source}")
def test_published_rows_name_their_source_and_are_consistent(table):
    """Printed reductions agree with the printed values, except for one misprint (VGG-16, penalty 100).

    For ResNet-110 they refer to 252.89 M MACs, the value of the network, not to the printed 256.04 M.
    """
    dense = 252.89 if table.arch == "resnet110" else table.macs
    for row, cells in zip(table.rows, published_rows(table), strict=True):
        assert cells[1] == f"DECORE-{row.setting:g}, published ({table.source})" and cells[1] in results_table()
        macs_drop = 100 * (1 - row.macs / dense)
        params_drop = 100 * (1 - row.params / table.params)
        if (table.arch, row.setting) != ("vgg16", 100):
            assert row.macs_drop == pytest.approx(macs_drop, abs=0.5)
        assert row.params_drop == pytest.approx(params_drop, abs=1.5)


def test_runs_have_latency_as_percentage_of_dense_at_both_batch_sizes():
    header, _, *rows = [line.split(" | ") for line in results_table().splitlines() if line.startswith("|")]
    first = header.index("latency vs dense, batch 1 (%)")
    ours = [row[first : first + 2] for row in rows if "this repository" in row[1]]
    assert header[first + 1] == "latency vs dense, batch 64 (%)"
    measured = re.compile(r"\d+ ± \d+( \(slower\))?|as dense ± \d+")  # with the spread, on an idle machine
    assert len(ours) > 5 and all(measured.fullmatch(cell) for row in ours for cell in row)
    assert not any("ms" in cell or "→" in cell for row in ours for cell in row)


def test_printed_reductions_that_do_not_follow_from_printed_macs_are_explained():
    text = (tables.HOME.parent / "docs" / "papers" / "decore.md").read_text(encoding="utf-8")
    assert "83.7 %" in text and "252.89 M" in text


def test_quoted_rows_are_not_labeled_as_tables_of_the_paper():
    """The paper's tables were not available: later papers quote its rows. The original README has one row of its own."""
    sources = {(table.arch, table.source) for table in PUBLISHED}
    quoted = {"vgg16": "CORING, table 1", "resnet56": "CORING, table 2", "densenet40": "CORING, table 3"}
    quoted |= {"googlenet": "CORING, table 4", "resnet50": "CORING, table 6", "resnet110": "NORTON, table 2"}
    expected = {(arch, f"as quoted by {source}") for arch, source in quoted.items()}
    assert sources == expected | {("vgg16", "README of the original repository")}
    (own,) = [table for table in PUBLISHED if "original" in table.source]
    assert [(row.setting, row.top1) for row in own.rows] == [(4, 89.41)]  # its row DECORE-50 is blank


def test_rows_of_paper_variant_precede_those_of_extended_variant(monkeypatch):
    agents = dict.fromkeys(("frozen", "auto_penalty", "reward_by_macs", "reward_baseline"), False)
    policy = {**agents, "learning_rate": 0.01, "agent_init": 6.9, "reward_topk": 1, "entropy": 0.0}
    options = {"threshold": 0.5, "target_macs": None, "round_to": 1, "bn_images": 0, "distill": 0.0, "policy": policy}
    dense = {"top1": 90.0, "macs": 200, "params": 100}
    run = {"dataset": "digits", "arch": "resnet20", "penalty": 20.0, "baseline": dense, "after_cut": dense}
    run |= {"compressed": dense, "policy_epochs": 2, "epochs": 1, "policy": {"images": 9, "last_epoch": {}}}
    extended = options | {"policy": policy | {"frozen": True}}
    monkeypatch.setattr(tables, "_read", lambda pattern: [run | {"options": extended}, run | {"options": options}])
    lines = tables.small_table().splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["paper variant", "extended (frozen)"]


def test_unpublished_network_is_last_without_published_rows(monkeypatch):
    dense = {"top1": 90.0, "macs": 200, "params": 100}
    metrics = {
        "baseline": dense,
        "after_cut": dense | {"top1": 50.0},
        "compressed": {"top1": 89.5, "macs": 140, "params": 60},
    }
    monkeypatch.setattr(tables, "differences", lambda options: ["frozen"])
    own = {"dataset": "digits", "options": {"target_macs": 0.7}, "penalty": 20.0, **metrics}
    monkeypatch.setattr(tables, "_read", lambda pattern: [own | {"arch": arch} for arch in ("resnet20", "vgg16")])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.networks_table().splitlines()[2:]]
    cells = ["90.00", "50.00", "89.50", "0.50", "30.0 %", "40.0 %"]
    label = "this repository, small scale, penalty 20, extended (frozen), 0.7 of the MACs"
    assert lines[-2:] == [["VGG-16 on digits", label, *cells], ["ResNet-20 on digits", label, *cells]]
    assert all("published" in line[1] for line in lines[:-2]) and len(lines) > 3
