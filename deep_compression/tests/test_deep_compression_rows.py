"""The commands behind the README's rows, small: choices on held-out pictures, CIFAR-10's course, the pictures of the README."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.data import load_dataset
from common.errors import UserError
from common.models import create_model
from deep_compression.paper import choice, cifar10, figures, tables
from deep_compression.paper.courses import COURSES, lossless, shortened
from deep_compression.stages import chain

WORDS = ["--dataset", "digits", "--arch", "lenet300_100", "--epochs", "1", "--bits", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    path = tmp_path_factory.mktemp("weights") / "dense.safetensors"
    save_file(model.state_dict(), path)
    return path


def starts(out: Path) -> dict[str, str]:
    """Density folder -> the file that was pruned into it."""
    return {p.parts[-3]: json.loads(p.read_text())["network"] for p in out.rglob("prune/metrics.json")}


@pytest.mark.parametrize("gradual", [False, True])
def test_densities_start_from_the_dense_network_or_from_the_one_before(weights, tmp_path, gradual):
    words = [*WORDS, "--weights", str(weights), "--densities", "0.5", "0.2", "--out", str(tmp_path / "runs")]
    words += ["--results", str(tmp_path / "results"), *(["--gradual"] if gradual else [])]
    assert cifar10.main(words) == 0
    results = {r["density"]: r for r in (json.loads(p.read_text()) for p in (tmp_path / "results").iterdir())}
    assert {d: round(r["baseline"]["bytes"] / 1e6, 1) for d, r in results.items()} == {0.5: 3.8, 0.2: 3.8}
    assert results[0.2]["gradual"] == gradual and "cifar10" in results[0.2]["command"]
    assert results[0.2]["compressed"]["bytes"] < results[0.5]["compressed"]["bytes"]
    found = starts(tmp_path / "runs")
    second = found["density0.5-density0.2-epochs1" if gradual else "density0.2-epochs1"]
    assert ("density0.5" in second) == gradual and found["density0.5-epochs1"].endswith("dense.safetensors")


def test_the_choice_takes_the_smallest_within_noise():
    assert choice.within_noise(1.0, 9900) == pytest.approx(1.1)
    tried = [
        {"error": 1.05, "bytes": 30},
        {"error": 1.11, "bytes": 10},
        {"error": 1.09, "bytes": 20},
        {"error": 1.20, "bytes": 5},
    ]
    assert choice.smallest_without_loss(tried, 1.1)["bytes"] == 20
    assert choice.smallest_without_loss(tried, 0.5)["bytes"] == 30


def test_everything_is_tried_on_held_out_pictures_and_the_chosen_is_told(tmp_path):
    digits = load_dataset("digits")
    data = replace(digits, train=digits.train.subset(torch.arange(600))).holdout(1 / 6)
    course = shortened(COURSES["lenet300_100"], 0.1)
    candidates = choice.Candidates((0.05,), (1, 2), ((0.2, 1, 0.05), (0.1, 1, 0.02)))
    stage = chain(tmp_path, data, torch.device("cpu"))
    record = choice.choose("lenet300_100", course, candidates, stage, data, in_features=3072)
    assert [one["what"] for one in record["tried"]] == ["dense", "paper", "paper", "lossless", "lossless"]
    assert record["pictures"] == 100 and record["chosen"]["lossless"] in ([0.2, 1, 0.05], [0.1, 1, 0.02])
    assert choice.table(record).count("**") == 6


def test_the_recipe_without_loss():
    recipe = lossless(COURSES["lenet5"].best, 0.02, 7, 0.03)
    assert recipe.prune.values == (0.04, 0.02) and recipe.prune.last_epochs == 7
    assert recipe.prune_training.learning_rate == 0.03 and recipe.share == COURSES["lenet5"].best.share
    assert COURSES["lenet5"].recipe("lossless") == lossless(COURSES["lenet5"].best, *COURSES["lenet5"].lossless)


@pytest.mark.parametrize("arch", sorted(COURSES))
def test_the_courses_are_what_was_chosen(arch):
    file = tables.RESULTS / f"choice-{arch}.json"
    chosen, course = json.loads(file.read_text())["chosen"], COURSES[arch]
    assert tuple(chosen.get("lossless", course.lossless)) == course.lossless
    assert chosen["rate"] == course.dense.learning_rate
    assert chosen["paper_epochs"] == course.paper.prune.last_epochs


def test_the_figure_of_cifar10(tmp_path, monkeypatch):
    assert figures.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / "cifar10.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no result files"):
        figures.cifar_figure(tmp_path / "x.png")
