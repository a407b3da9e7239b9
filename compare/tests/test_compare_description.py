"""``show`` describes the records of comparisons."""

import json
from pathlib import Path

from common.descriptions.readers import describe
from common.descriptions.run_table import find_runs
from compare.plan import FAILED, UNREACHABLE

STORED = Path(__file__).parent / "data" / "finished_run" / "comparison"
RESULTS = Path(__file__).parents[1] / "results"


def test_runs_of_comparison_are_listed():
    found = {run.run: run for run in find_runs(STORED)}
    unreachable = [run for run in found.values() if run.status == "unreachable"]
    assert unreachable and all("keep 0.0001 of the MACs" in run.reason for run in unreachable)
    finished = [run for run in found.values() if run.status == "finished" and run.top1 is not None]
    assert finished and all(run.command.startswith("python -m compare") and 0 < run.bytes <= 1.1 for run in finished)


def test_failed_result_shows_last_line_of_traceback(tmp_path):
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / FAILED).write_text("Traceback (most recent call last):\n  ...\nValueError: 3: too small\n")
    (tmp_path / UNREACHABLE).write_text(
        json.dumps({"job": {"methods": ["a"], "targets": {"macs": 0.5}}, "reason": "no: width"})
    )
    (failed,) = [run for run in find_runs(tmp_path / "seed0")]
    assert (failed.status, failed.reason) == ("failed", "ValueError: 3: too small")
    found = describe(tmp_path / UNREACHABLE)
    assert found.status == "unreachable: no: width" and ("target", "0.5 of the macs") in found.facts


def test_stored_results_show_means_by_target():
    found = describe(RESULTS / "digits.json")
    rows = [dict(zip(found.tables[0].header, row, strict=True)) for row in found.tables[0].rows]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    assert targets[:2] == ["70 % macs", "50 % macs"] and "(first 24 of" in found.tables[0].title
    best = next(row for row in rows if row["target"] == "50 % macs")
    assert (best["method"], best["top-1 (%)"], best["seeds"]) == ("rewarded meta-pruning (paper)", "99.07", "3")
