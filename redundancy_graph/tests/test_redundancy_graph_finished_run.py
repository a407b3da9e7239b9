"""Prune info and run folders finished at commit b50e727 are still read, plotted, kept and skipped.

They were made in ``data/finished_run`` by GENERATE and PRUNE; ``dense.safetensors`` is a ResNet-20 on digits, pruned to 3 % of its
MACs. The file ``fine-tune/resnet20-0.7-weights.pth`` was omitted.
"""

from pathlib import Path

import pytest
import torch

from common import pipeline
from common.checkpoint import load_model
from common.cost import count_cost
from common.data import load_dataset
from common.runs import read_json
from common.testing.finished import check_recorded_network, check_run_reopens, copy_finished_run, file_states
from redundancy_graph import generate, plots
from redundancy_graph.paper import tables
from redundancy_graph.prune_and_finetune import read_kept
from redundancy_graph.prune_info import read_prune_info
from redundancy_graph.settings import PruneCifar10, SelectionOptions, main_cifar10, main_generate
from redundancy_graph.weights import load_pruned_weights, read_network

NETWORK = "--arch resnet20 --pretrained dense.safetensors --dataset digits --threshold 0.6 0.7"
GENERATE = f"{NETWORK} --mini-batch 50 --device cpu --saved-dir prune-info --log-dir log"  # arguments of generate_prune_info.py
PRUNE = (  # arguments of prune_cifar10.py
    f"{NETWORK} --epochs 1 --batch-size 64 --mini-batch 50 --device cpu"
    " --pruneinfo-dir prune-info --saved-dir fine-tune --log-dir log"
)
MACS = {"0.6": 245_416, "0.7": 533_486}
DENSE_MACS = 1_214_318


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Copy the folders into the current folder, where they were when they were made."""
    monkeypatch.chdir(tmp_path)  # restores the current folder afterwards
    return copy_finished_run(__file__, tmp_path)


@pytest.mark.parametrize("threshold", MACS)
def test_network_has_recorded_macs_widths_and_accuracy(threshold):
    folder = f"fine-tune/resnet20-{threshold}"
    check_recorded_network(folder, MACS[threshold], "dense.safetensors", DENSE_MACS)
    metrics, modules = (
        read_json(f"{folder}/metrics.json"),
        dict(load_model(f"{folder}/model.safetensors").named_modules()),
    )
    widths = {name: int(entry.partition("/")[0]) for name, entry in metrics["kept"].items()}
    assert {name: modules[name].out_channels for name in widths} == widths and len(widths) == 12


def test_original_format_has_same_tensors():
    flat = load_pruned_weights("resnet20", "fine-tune/resnet20-0.6-weights.pth").state_dict()
    model = load_model("fine-tune/resnet20-0.6/model.safetensors").state_dict()
    assert flat.keys() == model.keys() and all(torch.equal(flat[name], model[name]) for name in model)


@pytest.mark.parametrize("threshold", MACS)
def test_prune_info_gives_recorded_widths(threshold):
    file = Path(f"prune-info/resnet20-{threshold}.json")
    report, metrics = read_json(file.with_suffix("") / "report.json"), read_json(f"fine-tune/{file.stem}/metrics.json")
    info = read_prune_info(file)
    assert len(info) == 12 and sum(removed for _, removed in info.values()) == report["filters_removed"]
    start = read_network("resnet20", Path("dense.safetensors"), load_dataset("digits"))
    target = SelectionOptions(target_macs=report["macs"] / DENSE_MACS)
    kept = read_kept(start, file, PruneCifar10(selection=target))  # raises if the MACs differ
    sizes = {group.name: group.size for group in start.groups}
    assert {name: f"{len(kept[name])}/{size}" for name, size in sizes.items()} == metrics["kept"] == report["layers"]


@pytest.mark.parametrize("folder", [f"{kind}/resnet20-{t}" for kind in ("prune-info", "fine-tune") for t in MACS])
def test_folder_opens_as_same_run(folder):
    check_run_reopens(folder, "redundancy_graph", finished=folder.startswith("fine-tune"))


def test_same_commands_skip_runs_and_other_options_raise(place, monkeypatch, capsys):
    monkeypatch.setattr(generate, "measure_similarities", None)  # no image is read
    monkeypatch.setattr(pipeline, "fit", None)  # no training
    before = file_states(place)
    assert main_generate(GENERATE.split()) == 0
    assert capsys.readouterr().out.count("already exists") == 2
    assert main_cifar10(PRUNE.split()) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    again = file_states(place)
    missing = place / "fine-tune" / "resnet20-0.7-weights.pth"  # written again from the run folder
    assert again.keys() - before.keys() == {missing} and all(again[file] == before[file] for file in before)
    assert count_cost(load_pruned_weights("resnet20", missing), (3, 32, 32)).macs == MACS["0.7"]
    assert main_cifar10([*PRUNE.split(), "--momentum", "0.5"]) == 2
    assert "--momentum 0.9" in capsys.readouterr().err
    assert main_generate([*GENERATE.split(), "--seed", "1"]) == 2
    assert "--seed 0" in capsys.readouterr().err


def test_runs_are_plotted_by_descending_macs(place):
    found = plots.read_finished_runs(place / "fine-tune", "resnet20")
    assert [run["compressed"]["macs"] for run in found] == [MACS["0.7"], MACS["0.6"]]
    plots.plot_accuracy_against_macs(place / "accuracy.png", found)
    assert (place / "accuracy.png").stat().st_size > 5000


def test_finished_runs_become_table_rows(place, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", place / "results")
    for threshold in MACS:
        file = tables.add_result(place / "fine-tune" / f"resnet20-{threshold}", tables.RESULTS)
        assert file.name == f"run-resnet20-digits-{threshold}.json" and len(read_json(file)["log"]) == 2
    rows = [line.split(" | ") for line in tables.results_table().partition("\n\n")[0].splitlines()[2:]]
    assert [(row[1], row[2], row[5], row[8]) for row in rows] == [
        ("0.7", "this repository", "69.80", "56.07"),
        ("0.6", "this repository", "38.20", "79.79"),
    ]
