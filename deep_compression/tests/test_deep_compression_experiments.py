"""Experiments of the README on small data: selection on held-out images, CIFAR-10, plots."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.data import load_dataset
from common.errors import UserError
from common.models import create_model
from deep_compression.paper import cifar10, make_plots, published, select_settings, tables
from deep_compression.paper.mnist_recipes import MNIST_RECIPES, scaled_epochs, validated_recipe
from deep_compression.stages import root_stage

ARGV = ["--dataset", "digits", "--arch", "lenet300_100", "--epochs", "1", "--bits", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    path = tmp_path_factory.mktemp("weights") / "dense.safetensors"
    save_file(model.state_dict(), path)
    return path


def starts(out: Path) -> dict[str, str]:
    """Map each density's folder to the file that it was pruned from."""
    return {p.parts[-3]: json.loads(p.read_text())["network"] for p in out.rglob("prune/metrics.json")}


@pytest.mark.parametrize("gradual", [False, True])
def test_densities_start_from_dense_or_previous_network(weights, tmp_path, gradual):
    argv = [*ARGV, "--weights", str(weights), "--densities", "0.5", "0.2", "--out", str(tmp_path / "runs")]
    argv += ["--results", str(tmp_path / "results"), *(["--gradual"] if gradual else [])]
    assert cifar10.main(argv) == 0
    results = {r["density"]: r for r in (json.loads(p.read_text()) for p in (tmp_path / "results").iterdir())}
    assert {d: round(r["baseline"]["bytes"] / 1e6, 1) for d, r in results.items()} == {0.5: 3.8, 0.2: 3.8}
    assert results[0.2]["gradual"] == gradual and "cifar10" in results[0.2]["command"]
    assert results[0.2]["compressed"]["bytes"] < results[0.5]["compressed"]["bytes"]
    found = starts(tmp_path / "runs")
    second = found["density0.5-density0.2-epochs1" if gradual else "density0.2-epochs1"]
    assert ("density0.5" in second) == gradual and found["density0.5-epochs1"].endswith("dense.safetensors")


def test_selection_prefers_smallest_file_within_error():
    assert select_settings.plus_standard_error(1.0, 9900) == pytest.approx(1.1)
    tried = [
        {"error": 1.05, "bytes": 30},
        {"error": 1.11, "bytes": 10},
        {"error": 1.09, "bytes": 20},
        {"error": 1.20, "bytes": 5},
    ]
    assert select_settings.smallest_within_error(tried, 1.1)["bytes"] == 20
    assert select_settings.smallest_within_error(tried, 0.5)["bytes"] == 30


def test_selection_records_candidates_on_held_out_images(tmp_path):
    digits = load_dataset("digits")
    data = replace(digits, train=digits.train.subset(torch.arange(600))).holdout(1 / 6)
    recipe = scaled_epochs(MNIST_RECIPES["lenet300_100"], 0.1)
    candidates = select_settings.Candidates((0.05,), (1, 2), ((0.2, 1, 0.05), (0.1, 1, 0.02)))
    stage = root_stage(tmp_path, data, torch.device("cpu"))
    record = select_settings.select("lenet300_100", recipe, candidates, stage, data, in_features=3072)
    assert [one["what"] for one in record["tried"]] == ["dense", "paper", "paper", "validated", "validated"]
    assert record["images"] == 100 and record["chosen"]["validated"] in ([0.2, 1, 0.05], [0.1, 1, 0.02])
    assert select_settings.table(record).count("**") == 6


def test_validated_recipe_has_its_values():
    recipe = validated_recipe(MNIST_RECIPES["lenet5"].smallest, 0.02, 7, 0.03)
    assert recipe.pruning.values == (0.04, 0.02) and recipe.pruning.last_epochs == 7
    assert (
        recipe.pruning_training.learning_rate == 0.03
        and recipe.quantization == MNIST_RECIPES["lenet5"].smallest.quantization
    )
    assert MNIST_RECIPES["lenet5"].compression("validated") == validated_recipe(
        MNIST_RECIPES["lenet5"].smallest, *MNIST_RECIPES["lenet5"].validated
    )


@pytest.mark.parametrize("arch", sorted(MNIST_RECIPES))
def test_mnist_recipes_equal_selected_settings(arch):
    file = tables.RESULTS / f"choice-{arch}.json"
    chosen, recipe = json.loads(file.read_text())["chosen"], MNIST_RECIPES[arch]
    assert tuple(chosen.get("validated", recipe.validated)) == recipe.validated
    assert chosen["rate"] == recipe.dense.learning_rate
    assert chosen["paper_epochs"] == recipe.paper.pruning.last_epochs


@pytest.mark.parametrize(("arch", "table"), [("lenet300_100", published.TABLE_2), ("lenet5", published.TABLE_3)])
def test_paper_densities_round_to_published_ones(arch, table):
    plan = MNIST_RECIPES[arch].paper.pruning
    ours = {
        layer: plan.layers[layer][-1] if layer in plan.layers else plan.values[-1]
        for layer in table
        if layer != "total"
    }
    assert {layer: round(100 * value) for layer, value in ours.items()} == {layer: table[layer][1] for layer in ours}


def test_cifar10_plot_is_drawn(tmp_path, monkeypatch):
    assert make_plots.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / "cifar10.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no result files"):
        make_plots.cifar_figure(tmp_path / "x.png")
