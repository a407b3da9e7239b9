"""``show`` describes prune info and its report."""

import json
from pathlib import Path

import pytest

from common.descriptions.readers import describe
from common.descriptions.run_table import find_runs
from common.errors import UserError

STORED = Path(__file__).parent / "data" / "finished_run" / "prune-info"


def test_prune_info_shows_filters_and_macs():
    found = describe(STORED / "resnet20-0.6.json")
    assert found.bars[0].rows[:2] == [("conv", 1, 3), ("layer1.0.conv1", 2, 3)]
    assert ("filters", "32 of 76 kept in 12 layers") in found.facts and ("threshold", "0.6") in found.facts
    assert found.costs[0] == ("MACs", 1214318, 245416)


def test_report_is_state_of_finished_run():
    found = describe(STORED / "resnet20-0.6" / "report.json")
    assert found.status == "finished" and ("layer1.2.conv1", 1, 2) in found.bars[0].rows
    assert [run.status for run in find_runs(STORED)] == ["finished", "finished"]


def test_damaged_prune_info_raises(tmp_path):
    content = json.loads((STORED / "resnet20-0.6.json").read_text())
    for entry in (5, {"saved_idxs": 3, "mask_num": 1}, {"saved_idxs": [1]}, {"saved_idxs": [1], "mask_num": -1}):
        (tmp_path / "a.json").write_text(json.dumps({**content, "layer1.0.conv1": entry}))
        with pytest.raises(UserError, match=r"layer layer1\.0\.conv1"):
            describe(tmp_path / "a.json")
