"""The README's tables and plots match the result files."""

import json

import numpy as np
import pytest
import torch

from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from deep_compression import save_compressed
from deep_compression.paper import make_plots, tables


def test_tables_without_results_state_absence(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    published = {f"deep_compression.{name}" for name in ("published", "bits", "methods", "vgg19", "alexnet", "vgg16")}
    published |= {"deep_compression.lenet300_100", "deep_compression.lenet5"}  # contain the paper's rows
    made = {name: make() for name, make in tables.TABLES.items() if name not in published}
    assert set(made.values()) == {tables.NONE, "Not measured yet."}


def runs_of(*changes: float) -> list[dict]:
    layers = [{"name": "fc1", "bytes": 25}]
    return [
        {"baseline": {"top1": 99.0}, "compressed": {"top1": 99.0 - c}, "rate": 39.0, "weight_bytes": 1000}
        | {"report": {"layers": layers}}
        for c in changes
    ]


@pytest.mark.parametrize(
    ("changes", "statement"),
    [
        ((0.1, -0.1), "+0.00 ± 0.14, at most 0.1 points"),
        ((0.09, 0.09, 0.09), "+0.09 ± 0.00, at most 0.1 points"),
        ((0.29, -0.02, 0.0), "+0.09 ± 0.17, at most 0.1 points"),  # the same mean has the same verdict
        ((0.3, 0.1, 0.2), "+0.20 ± 0.10, more than 0.1 points"),
    ],
)
def test_verdict_depends_on_mean_loss_only(changes, statement):
    assert tables._loss(runs_of(*changes)) == f"weights 40.0 ± 0.0 times smaller; the error changes by {statement}"


def test_published_layers_of_lenet5_add_up_to_another_total():
    counts = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    report = {"layers": [{"name": name, "weights": number} for name, number in counts.items()]}
    assert tables._published_sum("lenet5", report) == (
        "the layers add up to 2.73 % of the dense weights (36.6 times smaller), the published total is 2.55 % (39 times)"
    )


def test_findings_name_largest_ratio_below_half_point(monkeypatch):
    drops = {"resnet20": {10.0: 0.2, 12.0: 0.6, 14.0: 0.4, 16.0: 0.5}, "resnet56": {10.0: 0.7}}
    runs = [
        r | {"arch": arch, "rate": rate} for arch, of in drops.items() for rate, d in of.items() for r in runs_of(d)
    ]
    monkeypatch.setattr(tables, "cifar_runs", lambda: runs)
    assert tables.cifar_findings().splitlines() == [
        "- ResNet-20: 14.0x is the largest ratio with a loss below half a point (0.40).",
        "- ResNet-56: the loss is at least half a point at all ratios.",
    ]


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_published_tables_need_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = rows_of(tables.published_table())
    assert [(line[0], *line[2:]) for line in lines] == [
        ("AlexNet, ImageNet", "42.78 / 19.73", "42.78 / 19.70", "240 MB", "6.9 MB", "35x"),
        ("VGG-16, ImageNet", "31.50 / 11.32", "31.17 / 10.91", "552 MB", "11.3 MB", "49x"),
    ]
    assert rows_of(tables.vgg19_table())[0][1:] == ["92.22", "92.18", "90.93", "91.86", "92.23", "(not published)"]
    assert [len(rows_of(tables.layer_tables(arch))) for arch in ("alexnet", "vgg16_imagenet")] == [9, 17]
    assert rows_of(tables.layer_tables("alexnet"))[5] == [
        *("fc6", "paper (published), table 4", "38M", "9", "5", "3.9", "4", "3.2", "3.0", "2.39")
    ]
    assert rows_of(tables.bits_table())[3] == ["4 / 2", "44.77", "22.33", "+1.99", "+2.60"]
    assert rows_of(tables.methods_table())[-1][1:] == ["42.78", "19.70", "6.9 MB", "35x"]


def test_layer_tables_average_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    keys = [key for key, _ in tables.NUMBERS]
    for seed in range(2):
        rows = [{"name": name} | dict.fromkeys(keys, 5.0 + seed) for name in ("fc1", "fc2", "fc3", "total")]
        report = {"layers": rows[:3], "total": rows[3]}
        (tmp_path / f"mnist-lenet300_100-paper-seed{seed}.json").write_text(json.dumps({"report": report}))
    found = rows_of(tables.layer_tables("lenet300_100"))
    assert [row[0] for row in found[::2]] == ["fc1", "fc2", "fc3", "total"]
    assert found[1][1:] == ["this repository, paper", "6", *["5.5"] * 5, "5.50", "5.50"]  # 5.5 weights round to even


def test_weight_histograms_count_remaining_weights(tmp_path):
    folder = tmp_path / "density0.5" / "bits1"
    model = create_model("lenet5")
    save_model(tmp_path / "dense.safetensors", model)
    with pytest.raises(UserError, match="prune/model.safetensors is missing"):
        make_plots.weight_counts(folder)
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1, model.fc2):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    save_model(folder.parent / "prune" / "model.safetensors", model)
    remaining = int((model.fc2.weight != 0).sum())
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1, model.fc2):
            layer.weight.copy_(layer.weight.sign() * 0.001)
    (folder / "encode").mkdir(parents=True)
    save_compressed(folder / "encode" / "model.dcz", model)
    layers = make_plots.weight_counts(folder, shown=4)["layers"]
    assert [layer["name"] for layer in layers] == ["conv1", "conv2", "fc1", "fc2"]
    last = layers[-1]
    assert last["values"] == [-0.001, 0.001] and last["density"] == pytest.approx(50, abs=1)
    assert 0.98 * remaining <= sum(last["pruned"]) <= remaining  # up to half a percent is outside the range at each end
    middle = np.abs(np.asarray(last["edges"])[:-1] + np.diff(last["edges"]) / 2) < 0.25 * max(last["edges"])
    assert np.asarray(last["pruned"])[middle].sum() == 0 < np.asarray(last["dense"])[middle].sum()
