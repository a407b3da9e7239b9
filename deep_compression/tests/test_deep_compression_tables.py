"""The README's tables are those of the result files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from common.reporting.results import block_names, replace_block
from deep_compression import save_compressed
from deep_compression.paper import figures, tables

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", sorted(tables.TABLES))
def test_the_readme_shows_what_the_result_files_hold(name):
    assert name in block_names(README)
    assert not replace_block(README, name, tables.TABLES[name](), check=True)


def test_tables_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = {name: make() for name, make in tables.TABLES.items() if name != "deep_compression.published"}
    assert set(made.values()) == {tables.NONE, "Not measured yet."}


def runs_of(*changes: float) -> list[dict]:
    return [{"baseline": {"top1": 99.0}, "compressed": {"top1": 99.0 - c}, "rate": 40.0} for c in changes]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((0.1, -0.1), "40.0 times smaller without loss"),
        ((0.05, 0.05, 0.05), "40.0 times smaller at a loss of 0.05 points"),
        (
            (0.3, 0.2, 0.0),
            "40.0 times smaller at a loss that 3 seeds cannot tell from none (0.17 points)",
        ),  # 1.9 of them
        ((0.3, 0.1, 0.2), "40.0 times smaller at a loss of 0.20 points"),  # 0.2 is more than twice 0.1 / sqrt(3)
    ],
)
def test_a_loss_is_one_if_it_is_more_than_two_of_its_standard_errors(changes, said):
    assert tables._loss(runs_of(*changes)) == said


def test_the_greatest_rate_below_half_a_point_is_named(monkeypatch):
    drops = {"resnet20": {10.0: 0.2, 12.0: 0.6, 14.0: 0.4, 16.0: 0.5}, "resnet56": {10.0: 0.7}}
    runs = [
        r | {"arch": arch, "rate": rate} for arch, of in drops.items() for rate, d in of.items() for r in runs_of(d)
    ]
    monkeypatch.setattr(tables, "cifar_runs", lambda: runs)
    assert tables.cifar_findings().splitlines() == [
        "- ResNet-20 loses less than half a point at 14.0 times smaller (0.40), at no greater rate.",
        "- ResNet-56 loses less than half a point at no rate that was tried.",
    ]


def test_what_was_published_needs_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.published_table().splitlines()[2:]]
    assert all(line[1].startswith("published") for line in lines)
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


def test_the_histograms_of_a_run_count_its_living_weights(tmp_path):
    folder = tmp_path / "density0.5" / "bits1"
    model = create_model("lenet5")
    save_model(tmp_path / "dense.safetensors", model)
    with pytest.raises(UserError, match="prune/model.safetensors is missing"):
        figures.weight_counts(folder)
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1, model.fc2):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    save_model(folder.parent / "prune" / "model.safetensors", model)
    living = int((model.fc2.weight != 0).sum())
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1, model.fc2):
            layer.weight.copy_(layer.weight.sign() * 0.001)
    (folder / "encode").mkdir(parents=True)
    save_compressed(folder / "encode" / "model.dcz", model)
    layers = figures.weight_counts(folder, shown=4)["layers"]
    assert [layer["name"] for layer in layers] == ["conv1", "conv2", "fc1", "fc2"]
    last = layers[-1]
    assert last["values"] == [-0.001, 0.001] and last["density"] == pytest.approx(50, abs=1)
    assert 0.98 * living <= sum(last["pruned"]) <= living  # up to half a percent lies beyond each end
    middle = np.abs(np.asarray(last["edges"])[:-1] + np.diff(last["edges"]) / 2) < 0.25 * max(last["edges"])
    assert np.asarray(last["pruned"])[middle].sum() == 0 < np.asarray(last["dense"])[middle].sum()
