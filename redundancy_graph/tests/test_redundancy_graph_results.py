"""Tables, plots, and the method as an entry point: the README agrees with the result files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rg_helpers import network

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import DataBundle, load_dataset
from common.errors import UserError
from common.reporting.results import block_names, replace_block
from common.testing import run_method
from common.trained_model import read_trained_model
from redundancy_graph import plots
from redundancy_graph.decision import GroupDecision
from redundancy_graph.group_similarity import GroupSimilarity
from redundancy_graph.method import METHOD
from redundancy_graph.paper import tables
from redundancy_graph.paper.published import PUBLISHED

PRINTED_DROPS = {  # the printed column "Top-1 drop", to check the other two
    "vgg16": (0.16, 0.35, 0.79),
    "resnet56": (0.27, 0.38, 0.93),
    "resnet110": (0.08, 0.51, 1.69),
    "densenet40": (-0.05, 0.09, 1.11),
    "resnet50": (1.54, 6.25),
}


def test_readme_contains_generated_tables():
    assert block_names(tables.README) == list(tables.TABLES)
    for name, table in tables.TABLES.items():
        assert not replace_block(tables.README, name, table(), check=True), (
            f"python -m redundancy_graph.paper.tables ({name})"
        )


def test_readme_lists_all_differences():
    text = tables.README.read_text(encoding="utf-8")
    for number in range(1, 17):
        assert f"| B{number} |" in text


@pytest.mark.parametrize("arch", PRINTED_DROPS)
def test_published_numbers_are_consistent(arch):
    table = PUBLISHED[arch]
    found = [table.top1 - row.top1 for row in table.rows]
    np.testing.assert_allclose(found, PRINTED_DROPS[arch], atol=1e-9)


def make_run(threshold: float | None, **more) -> dict:
    dense = {"top1": 90.0, "macs": 1000, "params": 500, "agreement": 95.0, "latency_ms": {"1": 1.0, "64": 40.0}}
    small = {**dense, "top1": 89.5, "macs": 600, "params": 400}
    options = {"threshold": threshold, "target_macs": None if threshold else 0.6}
    return {
        "arch": "resnet56",
        "baseline": dense,
        "after_cut": small,
        "compressed": small,
        "epochs": 3,
        "options": options,
    } | more


def test_results_table_has_rows_of_both_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "No result files" in tables.results_table()
    for name, run in (("a", make_run(0.7)), ("b", make_run(None)), ("c", make_run(0.5))):
        (tmp_path / f"run-{name}.json").write_text(json.dumps(run))
    lines = tables.results_table().splitlines()
    assert len(lines) == 2 + 4
    assert "40.00 %" in lines[2] and "20.00 %" in lines[2] and "0.50" in lines[2]
    assert "original code (published)" in lines[3] and "41.96 %" in lines[3] and "93.07" in lines[3]
    assert "target 0.6" in lines[5]


def test_only_finished_runs_of_this_package_become_results(tmp_path):
    run = tmp_path / "resnet56-0.7"
    run.mkdir()
    with pytest.raises(UserError, match="no finished run"):
        tables.add_result(run, tmp_path)
    options = make_run(0.7).pop("options")
    (run / "metrics.json").write_text(json.dumps({**make_run(0.7), "package": "redundancy_graph"}))
    (run / "config.json").write_text(json.dumps({"options": options, "environment": {}, "data_fingerprint": "x"}))
    (run / "log.csv").write_text("epoch\n1\n")
    record = json.loads(tables.add_result(run, tmp_path).read_text())
    assert record["log"] == ["epoch", "1"] and record["options"]["threshold"] == 0.7
    (run / "metrics.json").write_text(json.dumps({"package": "common"}))
    with pytest.raises(UserError, match="of common"):
        tables.add_result(run, tmp_path)


@pytest.mark.parametrize("file", sorted(tables.RESULTS.glob("run-*.json")), ids=lambda file: file.stem)
def test_result_files_are_complete(file: Path):
    run = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "commit", "seed", "device", "baseline", "after_cut", "compressed", "options"} <= run.keys()
    for side in ("baseline", "after_cut", "compressed"):
        assert all(math.isfinite(run[side][key]) for key in ("top1", "top5", "loss", "macs", "params", "bytes"))
    last = dict(zip(run["log"][0].split(","), run["log"][-1].split(","), strict=True))
    assert int(last["epoch"]) == run["epochs"]
    assert float(last["test_top1"]) == pytest.approx(run["compressed"]["top1"], abs=0.2)  # last epoch, not the best


def test_core_order_starts_with_innermost_core():
    adjacency = np.zeros((6, 6), dtype=bool)
    for i, j in ((1, 2), (1, 4), (2, 4), (4, 5)):
        adjacency[i, j] = adjacency[j, i] = True
    order, cores = plots.core_order(adjacency)
    assert order.tolist() == [4, 1, 2, 5, 0, 3]
    assert cores[order].tolist() == [2, 2, 2, 1, 0, 0]


def test_plots_are_written(tmp_path):
    similarity = GroupSimilarity(
        "a", "a", ("a",), np.array([[1, 0.9, 0.4], [0.9, 1, 0.5], [0.4, 0.5, 1]]), 64, np.ones(3)
    )
    decision = GroupDecision("a", "a", ("a",), 3, 64, [0, 2], [], 1.0)
    plots.plot_kept_filters(tmp_path / "kept.png", [decision])
    plots.plot_similarity(tmp_path / "map.png", similarity, 0.7)
    plots.plot_similarity(tmp_path / "edgeless.png", similarity, 0.99)
    run = make_run(0.7, label="redundancy graph resnet56-0.7", dataset="cifar10")
    plots.plot_accuracy_against_macs(tmp_path / "accuracy.png", [run, run])
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no finished run"):
        plots.read_finished_runs(tmp_path, "resnet56")


def test_method_meets_target_and_second_call_is_skipped(tmp_path):
    digits = load_dataset("digits")
    few = DataBundle(
        "digits", digits.train.subset(range(48)), digits.test.subset(range(20)), digits.classes, (3, 32, 32), "x"
    )
    checkpoint = tmp_path / "dense.safetensors"
    save_model(checkpoint, network("resnet20"), normalize=(few.mean, few.std))
    start = read_trained_model(checkpoint, few)
    metrics = run_method(METHOD, start, 0.5, tmp_path / "out")
    small = load_model(tmp_path / "out" / metrics["file"])
    assert 0.49 <= count_cost(small, (3, 32, 32)).macs / start.cost.dense <= 0.5
    assert METHOD.axis == "macs" and not METHOD.trains and small.conv1.out_channels < 16
    kept = json.loads((tmp_path / "out" / "decision.json").read_text())["kept"]
    assert {name: len(of) for name, of in kept.items()}["conv1"] == small.conv1.out_channels
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert run_method(METHOD, start, 0.5, tmp_path / "out") == metrics
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
