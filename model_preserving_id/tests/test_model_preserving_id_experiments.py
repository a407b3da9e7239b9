"""The paper's experiments at small scale: each command writes a result file and plots with consistent values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.channels import channel_groups
from common.checkpoint import load_model, save_model
from common.data import load_dataset
from common.models import create_model
from common.testing.notebooks import parse_notebook_options
from model_preserving_id import prune_network
from model_preserving_id.activations import gather_statistics
from model_preserving_id.calibration import calibration_images
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.paper import tables
from model_preserving_id.paper.experiments import (
    class_accuracy,
    conv3d,
    conv3d_network,
    missing_class,
    molecules,
    ratios,
    wide,
    wide_layer,
)
from model_preserving_id.paper.settings import RATIO_LABELS
from model_preserving_id.pivoted import pivoted_cholesky
from model_preserving_id.settings import prune_main

CPU = ["--threads", "1", "--device", "cpu"]
NOTEBOOKS = {path.stem: path for path in sorted(Path(__file__).resolve().parents[1].glob("*.ipynb"))}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def lenet(digits, tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lenet") / "dense.safetensors"
    model = create_model("lenet5", in_channels=3, image_size=32)
    save_model(path, model, normalize=(digits.mean, digits.std), dataset="digits", classes=digits.classes)
    return str(path)


def test_wide_layer_records_decreasing_errors(digits, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = create_model("fc4096", in_features=3072, hidden=64).eval()
    save_model(tmp_path / "m.safetensors", model, normalize=(digits.mean, digits.std), dataset="digits")
    words = ["--checkpoint", str(tmp_path / "m.safetensors"), "--dataset", "digits", "--prune-batch-size", "300", *CPU]
    assert wide.main([*words, "--widths", "4", "20", "40", "64", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "wide.json").read_text())
    points = {point["k"]: point for point in record["points"]}
    assert points[64]["test"] == {"top1": record["dense"]["test"], "agreement": 100.0}
    for name in ("sigma", "frobenius", "pivot"):
        assert 1 > points[4][name] > points[20][name] > points[40][name] > points[64][name] == 0
    assert points[40]["test"]["agreement"] > points[4]["test"]["agreement"]
    assert {"metrics.png", "accuracy.png"} < {path.name for path in (tmp_path / "out").iterdir()}
    (tmp_path / "results").mkdir()
    (tmp_path / "out" / "wide.json").rename(tmp_path / "results" / "wide-mnist.json")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert f"| 64 | 0.00e+00 | 0.00e+00 | 0.00e+00 | {record['dense']['train']:.2f}" in tables.wide_table()


def test_nested_widths_equal_one_shot_pruning(digits):
    torch.manual_seed(0)
    model, x = create_model("fc4096", in_features=3072, hidden=48).eval(), torch.zeros(1, 3, 32, 32)
    images = calibration_images(digits, 300, batch_size=100)
    folded = FoldedNetwork(model, x)
    gram = gather_statistics(folded.model, folded.consumer_inputs(), images)["fc1"].stacked()
    batch = next(iter(images))
    for k in (5, 20, 47):
        kept, weight = wide_layer.fold_weight(pivoted_cholesky(gram), model.fc2.weight.detach(), k)
        smaller = prune_network(model, x, images, kept={"fc1": k}, compensation="none")
        with torch.no_grad():
            nested = torch.relu(model.fc1(batch.flatten(1)))[:, kept] @ weight.T + model.fc2.bias
            assert (nested - smaller(batch)).abs().max() <= 1e-4 * nested.abs().max()


def test_missing_class_is_absent_from_calibration_and_all_classes_are_measured(lenet, tmp_path, monkeypatch):
    words = ["--checkpoint", lenet, "--without-class", "3", "--prune-batch-size", "100", "--k", "0.6", *CPU]
    asked = []
    real = class_accuracy.calibration_images
    monkeypatch.setattr(
        class_accuracy, "calibration_images", lambda *a, **k: (asked.append(real(*a, **k)), asked[-1])[1]
    )
    assert missing_class.main([*words, "--every", "0.1", "--target-macs", "0.5", "--out", str(tmp_path)]) == 0
    assert not (asked[0].image_set.labels == 3).any()
    record = json.loads((tmp_path / "missing_class.json").read_text())
    points = record["points"]
    assert points[0]["macs_left"] == 1.0 and points[0]["agreement"] == 100.0 and points[-1]["macs_left"] <= 0.5
    assert all(len(point["per_class"]) == 10 for point in points)
    assert {"per_class.png", "agreement.png"} < {path.name for path in tmp_path.iterdir()}


def test_accuracy_per_class_equals_manual_counts():
    predictions, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert class_accuracy.accuracy_per_class(predictions, labels, 4) == [100.0, 100.0, 50.0, None]


def test_all_methods_keep_same_fraction_of_parameters(lenet, tmp_path):
    words = ["--checkpoint", lenet, "--ratios", "0.5", "0.01", "--prune-batch-size", "100", *CPU]
    assert ratios.main([*words, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "ratios.json").read_text())
    assert {point["method"] for point in record["points"]} == set(RATIO_LABELS)
    for point in record["points"]:
        if "unreachable" in point:
            assert point["ratio"] == 0.01 or point["method"].startswith("id+")
        else:
            assert point["params_left"] <= point["ratio"] * 1.005
    met = {p["method"]: p["params_left"] for p in record["points"] if p["ratio"] == 0.5 and "params_left" in p}
    assert {"pca", "lrank", "alds", "id", "l1"} <= met.keys() and all(left > 0.4 for left in met.values())
    assert (tmp_path / "ratios.png").is_file()


def test_conv3d_network_is_pruned_on_generated_data(tmp_path, monkeypatch):
    few = {"train": 32, "val": 24, "test": 16}
    monkeypatch.setattr(conv3d_network, "generate", lambda grid, seed: molecules.generate(grid, seed, few))
    words = [
        "--widths",
        "4",
        "6",
        "8",
        "10",
        "--hidden",
        "12",
        "--epochs",
        "1",
        "--k",
        "0.7",
        "--target-macs",
        "0.52",
        *CPU,
        "--out",
        str(tmp_path),
    ]
    assert conv3d.main(words) == 0
    record = json.loads((tmp_path / "conv3d.json").read_text())
    assert record["data"] == "generated" and {point["method"] for point in record["points"]} == {"dense", "id", "l2"}
    lefts = [point["macs_left"] for point in record["points"] if point["method"] == "id"]
    assert lefts == sorted(lefts, reverse=True) and 0.98 * 0.5 <= lefts[-1] <= 0.52
    written = (tmp_path / "dense.safetensors").stat().st_mtime_ns
    assert conv3d.main(words) == 0 and (tmp_path / "dense.safetensors").stat().st_mtime_ns == written
    loaded = load_model(tmp_path / "dense.safetensors", lambda: conv3d_network.Conv3dNetwork(17, (4, 6, 8, 10), 12))
    assert loaded(torch.zeros(1, 5, 17, 17, 17)).shape == (1, 1)


def test_atoms_are_counted_by_voxel():
    at = np.array([[1.2, 0, 0], [0, -2, 0], [0, 0, 0], [99, 0, 0]])
    box = molecules.voxels(["C", "O", "Zn", "C"], at, np.zeros(3), 7)
    assert box.sum() == 2 and box[1, 4, 3, 3] == 1 and box[2, 3, 1, 3] == 1


def test_ranks_and_correlations_equal_manual_values():
    assert conv3d_network.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert conv3d_network.correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == 1.0
    assert conv3d_network.correlation(np.ones(3), np.arange(3.0)) == 0.0


def test_conv3d_network_is_pruned_to_half_widths():
    torch.manual_seed(0)
    model, x = conv3d_network.Conv3dNetwork(17, (6, 8, 8, 8), 16).eval(), torch.randn(6, 5, 17, 17, 17)
    assert [group.size for group in channel_groups(model, x[:1])] == [6, 8, 8, 8, 16]
    smaller = prune_network(model, x[:1], x, keep=0.5)
    assert smaller.convs[1].out_channels == 4 and smaller(x).shape == (6, 1)


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("accVsErr", ["common.train", "wide"]),
        ("Iter-PerClass-ClassRemoved-Figure", ["common.train", "missing_class"]),
        ("ComparisonsNet", ["common.train", "ratios"]),
        ("atom3d-Pruning", ["conv3d"]),
    ],
)
def test_notebook_calls_experiment_with_valid_options(name, commands):
    """Without a kernel; the data need no download, and the network is the one trained in the notebook."""
    assert len(NOTEBOOKS) == 4
    calls = parse_notebook_options(NOTEBOOKS[name])
    assert [prog.removeprefix("python -m model_preserving_id.paper.experiments.") for prog, _ in calls] == [
        command.replace("common.train", "python -m common.train") for command in commands
    ]
    assert all(options.out.startswith("runs/notebook/") for _, options in calls)
    if len(calls) == 2:
        (_, train), (_, experiment) = calls
        assert train.dataset == experiment.dataset == "digits"
        assert experiment.checkpoint == f"{train.out}/model.safetensors"


def test_more_calibration_images_than_training_images_raise(lenet, tmp_path, capsys):
    """All commands reject an explicit number; without one, they use as many as there are."""
    for main, words in (
        (missing_class.main, ["--checkpoint", lenet]),
        (ratios.main, ["--checkpoint", lenet]),
        (prune_main, ["--checkpoint", lenet]),
    ):
        assert main([*words, "--prune-batch-size", "5000", "--out", str(tmp_path), *CPU]) == 2
        assert "--prune-batch-size 5000: digits has 1297 training images; use 1 to 1297" in capsys.readouterr().err


def test_methods_of_curve_have_different_styles():
    styles = [tuple(tables.plot_style(method).values()) for method in tables.NAMES]
    assert len(set(styles)) == len(styles)
    assert tables.plot_style("without-t")["linestyle"] == tables.plot_style("l1")["linestyle"] == ":"
