"""``show`` describes the candidates of a search."""

import json
import shutil
from pathlib import Path

from common.descriptions.readers import describe
from common.descriptions.run_table import find_runs

STORED = Path(__file__).parent / "data" / "finished_run" / "searching"


def test_search_shows_best_candidates():
    found = describe(STORED / "search.json")
    assert found.status == "finished" and ("candidates", "18 in 3 generations") in found.facts
    assert ("MACs allowed", "33,908 to 34,600, rule conv_linear") in found.facts
    table = dict(zip(found.tables[0].header, found.tables[0].rows[0], strict=True))
    assert table["rank"] == "1" and table["vector"] == "19 10" and table["macs"] == "34,590"


def test_unfinished_search_resumes(tmp_path):
    shutil.copytree(STORED, tmp_path / "search")
    assert [run.status for run in find_runs(tmp_path)] == ["finished"]
    content = json.loads((STORED / "search.json").read_text())
    (tmp_path / "search" / "search.json").write_text(json.dumps({**content, "finished": False}))
    assert [run.status for run in find_runs(tmp_path)] == ["unfinished: resumes"]
