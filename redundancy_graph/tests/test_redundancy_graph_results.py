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
from common.testing import run_method
from common.trained_model import read_trained_model
from redundancy_graph import plots
from redundancy_graph.decision import GroupDecision
from redundancy_graph.group_similarity import GroupSimilarity
from redundancy_graph.method import METHOD
from redundancy_graph.paper import tables
from redundancy_graph.paper.published import FIRST, PUBLISHED


def test_readme_lists_all_differences():
    text = tables.README.read_text(encoding="utf-8")
    for number in range(1, 17):
        assert f"| B{number} |" in text


def test_published_drops_are_differences_of_printed_accuracies():
    rows = [row for row in PUBLISHED if row.source == FIRST]
    assert len(rows) == 5 + 14
    for row in rows:
        dense = next(one for one in rows if one.table == row.table and one.threshold is None)
        assert row.top1 == pytest.approx(dense.top1 - row.drop)
        if dense.top5:
            assert row.top5 == pytest.approx(dense.top5 - row.top5_drop)


def test_published_rows_name_source_table_and_row():
    names = [(row.source, row.table, row.row, row.dataset) for row in PUBLISHED]
    assert len(set(names)) == len(names) and all(all(name) for name in names)
    assert {row.dataset for row in PUBLISHED} == {"cifar10", "imagenet", "cifar100", "cub200"}


def make_run(threshold: float | None, **more) -> dict:
    dense = {"top1": 90.0, "macs": 1000, "params": 500, "agreement": 95.0, "latency_ms": {"1": 1.0, "64": 40.0}}
    small = {**dense, "top1": 89.5, "macs": 600, "params": 400}
    options = {"threshold": threshold, "target_macs": None if threshold else 0.6}
    return {
        "arch": "resnet56",
        "dataset": "cifar10",
        "baseline": dense,
        "after_cut": small,
        "compressed": small,
        "epochs": 3,
        "options": options,
    } | more


def test_results_table_has_rows_of_both_sources(tmp_path, monkeypatch):
    """Option-A shortcuts are named and follow, missing runs are named, and more time than the dense network is called slower."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "No result files" in tables.results_table()
    slow = {"1": {"ratio": 1.2, "low": 1.19, "high": 1.23}, "64": {"ratio": 0.75, "low": 0.74, "high": 0.76}}
    authors = make_run(0.7, shortcut="conv3x3", latency=slow)
    for name, run in (("a", make_run(0.7)), ("b", make_run(None)), ("c", make_run(0.5)), ("d", authors)):
        (tmp_path / f"run-{name}.json").write_text(json.dumps(run))
    table, _, note = tables.results_table().partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + 6 + 3
    assert lines[4].count("41.96") == 1 and "README of March 2023 (published)" in lines[4] and "93.07" in lines[4]
    assert "40.00" in lines[5] and "20.00" in lines[5] and "0.50" in lines[5] and "120 ± 3 (slower) | 75 ± 1" in lines[5]
    for published, missing, threshold in ((2, 3, "| 0.75 |"), (6, 7, "| 0.65 |")):
        assert threshold in lines[published] and threshold in lines[missing] and "not finished" in lines[missing]
    assert len({line.count("|") for line in lines}) == 1
    kinds = ["3x3" if "3x3 shortcuts" in line else "A" if "option-A shortcuts" in line else "?" for line in lines[2:]]
    assert kinds == 6 * ["3x3"] + 3 * ["A"]
    assert "target 0.6" in lines[10] and "1.0 / 40" in note


def test_runs_of_earlier_commits_are_labeled_by_their_weights(tmp_path):
    old = make_run(0.7)
    old["options"]["pretrained"] = "../weights/resnet56-conv3x3.safetensors"
    assert tables._cells(old)[0] == "ResNet-56, 3x3 shortcuts"
    assert tables._cells(make_run(0.7))[0] == "ResNet-56, option-A shortcuts"
    assert tables._cells(make_run(0.7, arch="vgg16"))[0] == "VGG-16"


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
    (run / "metrics.json").write_text(
        json.dumps({**make_run(0.7), "package": "redundancy_graph", "shortcut": "conv3x3", "dataset": "cifar100"})
    )
    assert tables.add_result(run, tmp_path).name == "run-resnet56-conv3x3-cifar100-0.7.json"
    (run / "metrics.json").write_text(json.dumps({"package": "common"}))
    with pytest.raises(UserError, match="of common"):
        tables.add_result(run, tmp_path)


def test_prune_info_becomes_a_row_beside_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    folder = tmp_path / "info" / "vgg16-0.8"
    folder.mkdir(parents=True)
    report = {"arch": "vgg16", "dataset": "cifar10", "shortcut": None, "threshold": 0.8, "seconds": 2.0}
    report["weights"] = "vgg16-weights.pth"
    (folder / "report.json").write_text(json.dumps(report | {"macs_removed": 23.9, "params_removed": 50.0}))
    environment = {"device": "cpu", "commit": "abc"}
    config = {"options": {"mini_batch": 100}, "environment": environment, "data_fingerprint": "x"}
    (folder / "config.json").write_text(json.dumps(config))
    file = tables.add_result(folder, tmp_path)
    assert file.name == "prune-info-vgg16-0.8.json" and json.loads(file.read_text())["commit"] == "abc"
    row = "| VGG-16 | 0.8 | 42.16 | 23.90 |  | 77.11 | 50.00 | 93.72 → 93.56 (−0.16) | not finished |"
    assert tables.removed_table().splitlines()[2] == row
    (tmp_path / "run-vgg16-0.8.json").write_text(json.dumps(make_run(0.8, arch="vgg16", shortcut=None)))
    row = row.replace("not finished", "90.00 → 89.50 (−0.50)")
    assert tables.removed_table().splitlines()[2] == row
    settings = [{"name": tables.AS_ORIGINAL, "removed": {"0.8": 27.126}}]
    (tmp_path / "settings-vgg16-weights.json").write_text(json.dumps({"settings": settings}))
    assert tables.removed_table().splitlines()[2] == row.replace("23.90 |  |", "23.90 | 27.13 |")


def test_readme_statements_on_removed_macs_are_true():
    found = {}
    for line in tables.removed_table().splitlines()[2:]:
        network, threshold, published, here, original, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        found[network, threshold] = [float(value) for value in (published, here, original)]
    assert len(found) == 6
    for (network, threshold), (published, here, original) in found.items():
        if network == "VGG-16":
            assert max(here, original) < published - 5
        else:
            assert here > published
            assert abs(original - published) < 2.5 or threshold == "0.75"


def test_readme_statements_on_accuracy_are_true():
    """Drops in points after 40 epochs: VGG-16's are the published ones, ResNet-56's are larger."""
    runs = [json.loads(file.read_text()) for file in tables.RESULTS.glob("run-*.json")]
    drops = {}
    for run in runs:
        if run["epochs"] == 40:
            printed = tables.find_published(run["arch"], run["dataset"], run["options"]["threshold"])
            dense, small = run["baseline"], run["compressed"]
            drops[run["arch"], printed.threshold] = dense["top1"] - small["top1"], printed.drop
            assert printed.top1 is not None
            assert (small["top1"] > printed.top1) == (run["arch"] == "vgg16")
    assert sorted(drops) == [("resnet56", 0.7), ("resnet56", 0.75), ("vgg16", 0.7), ("vgg16", 0.75), ("vgg16", 0.8)]
    for (arch, _), (here, published) in drops.items():
        assert here - published > 0.7 if arch == "resnet56" else abs(here - published) < 0.1


def test_digits_value_is_that_of_the_stored_comparison(tmp_path, monkeypatch):
    sides = {"baseline": {"top1": 99.4, "macs": 200}, "compressed": {"top1": 96.0, "macs": 99}}
    row = {"method": "redundancy_graph", "seed": 0, "target": 0.5, **sides}
    others = [row | {"method": "l1_norm"}, row | {"seed": 1}, row | {"target": 0.7}]
    monkeypatch.setattr(tables, "DIGITS", tmp_path / "digits.json")
    assert "not measured" in tables.quick_table()
    tables.DIGITS.write_text(json.dumps({"rows": others}))
    assert "not measured" in tables.quick_table()
    tables.DIGITS.write_text(json.dumps({"rows": [*others, row]}))
    assert "top-1 96.0 % with 49.5 % of the MACs (dense 99.4 %)" in tables.quick_table()


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
    assert METHOD.variant == "paper" and METHOD.default and METHOD.label == "redundancy graph (paper)"
    for difference in ("threshold", "eval mode", "augmentation", "option-A"):
        assert difference in METHOD.note and "\n" not in METHOD.note
    assert metrics["images"] == 48  # all of them
    assert METHOD.axis == "macs" and not METHOD.trains and small.conv1.out_channels < 16
    kept = json.loads((tmp_path / "out" / "decision.json").read_text())["kept"]
    assert {name: len(of) for name, of in kept.items()}["conv1"] == small.conv1.out_channels
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert run_method(METHOD, start, 0.5, tmp_path / "out") == metrics
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
