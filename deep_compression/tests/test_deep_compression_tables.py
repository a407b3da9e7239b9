"""The README's tables and plots match the result files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from common.reporting.results import block_names, replace_block
from deep_compression import save_compressed
from deep_compression.paper import make_plots, tables

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", sorted(tables.TABLES))
def test_readme_tables_match_results(name):
    assert name in block_names(README)
    assert not replace_block(README, name, tables.TABLES[name](), check=True)


def test_tables_without_results_state_absence(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = {name: make() for name, make in tables.TABLES.items() if name != "deep_compression.published"}
    assert set(made.values()) == {tables.NONE, "Not measured yet."}


def runs_of(*changes: float) -> list[dict]:
    return [{"baseline": {"top1": 99.0}, "compressed": {"top1": 99.0 - c}, "rate": 40.0} for c in changes]


@pytest.mark.parametrize(
    ("changes", "statement"),
    [
        ((0.1, -0.1), "40.0 times smaller without loss"),
        ((0.05, 0.05, 0.05), "40.0 times smaller at a loss of 0.05 points"),
        (
            (0.3, 0.2, 0.0),
            "40.0 times smaller at a loss of 0.17 points, within two standard errors of zero (3 seeds)",
        ),  # 1.9 standard errors
        ((0.3, 0.1, 0.2), "40.0 times smaller at a loss of 0.20 points"),  # 0.2 > 2 x 0.1 / sqrt(3)
    ],
)
def test_loss_statement_uses_two_standard_errors(changes, statement):
    assert tables._loss(runs_of(*changes)) == statement


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


def test_published_table_needs_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.published_table().splitlines()[2:]]
    assert all(line[1].endswith("(published)") for line in lines)
    assert [(line[0], *line[3:]) for line in lines[:2]] == [
        ("AlexNet, ImageNet", "42.78 / 19.73", "42.78 / 19.70", "240 MB", "6.9 MB", "35x"),
        ("VGG-16, ImageNet", "31.50 / 11.32", "31.17 / 10.91", "552 MB", "11.3 MB", "49x"),
    ]
    assert {line[2]: line[4] for line in lines[2:]} == {
        "25 rounds of pruning": "7.82",
        "k = 4": "9.07",
        "k = 9": "8.14",
        "k = 13": "7.77",
    }


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
