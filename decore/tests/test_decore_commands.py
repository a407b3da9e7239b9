"""Commands end to end on small data: run folders, reuse of phases, several penalties, section 5, API of the original code."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from decore_helpers import trained_resnet

from common.checkpoint import load_model, read_tensors, save_model
from common.data import load_dataset
from common.errors import UserError
from common.limits import Limits
from common.methods import Decision
from common.models import create_model
from common.pipeline import apply_decision, recalibration_images
from common.runs import open_stage, read_json
from common.settings import parse
from common.target import Target
from common.testing import write_image_folder
from common.training import TrainOptions
from decore import investigate, method, policy_stage
from decore.agents import Agents
from decore.paper import tables
from decore.policy_options import DecoreOptions, PolicyOptions
from decore.settings import PruneModel, main_investigate, main_prune


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of two classes and a ResNet-20 with random weights."""
    root = tmp_path_factory.mktemp("decore")
    write_image_folder(root / "images", train=16, test=6)
    torch.manual_seed(0)
    save_model(root / "net.safetensors", create_model("resnet20", num_classes=2))
    return root


def words(place, *more: str) -> list[str]:
    network = ["--checkpoint", str(place / "net.safetensors"), "--dataset", f"folder:{place / 'images'}"]
    return [
        *network,
        "--device",
        "cpu",
        "--batch-size",
        "4",
        "--agents-learning-rate",
        "0.3",
        "--agent-init",
        "2",
        *more,
    ]


def prune_words(place, *more: str) -> list[str]:
    return words(place, "--epochs", "3", "--policy-epochs", "2", "--bn-images", "16", *more)


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """Runs with three penalties, pruned with their policies; tests that write use a copy."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    assert main_prune(prune_words(place, "--saved-dir", str(folder), "--penalty", "0", "4", "50", "--no-latency")) == 0
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def test_run_writes_folder_and_second_call_skips_it(place, tmp_path, capsys):
    options = prune_words(place, "--saved-dir", str(tmp_path), "--penalty", "0", "--target-macs", "0.7", "--plots")
    assert main_prune(options) == 0
    folder, policy = tmp_path / "resnet20-0-macs0.7", tmp_path / "resnet20-0-policy"
    assert {p.name for p in folder.iterdir()} == {
        *(
            "config.json",
            "decision.json",
            "log.csv",
            "metrics.json",
            "model.safetensors",
            "kept.png",
            "policies.png",
            "course.png",
        )
    }
    assert {p.name for p in policy.iterdir()} == {
        *("config.json", "log.csv", "metrics.json", "model.safetensors", "agents.safetensors")
    }
    assert (tmp_path / "resnet20.png").stat().st_size > 5000
    metrics = read_json(folder / "metrics.json")
    assert metrics["schema"] == 1 and metrics["package"] == "decore" and metrics["penalty"] == 0
    assert 0.98 * 0.7 <= metrics["compressed"]["macs"] / metrics["baseline"]["macs"] <= 0.7
    assert {
        "top1",
        "top5",
        "loss",
        "macs",
        "params",
        "nonzero_params",
        "bytes",
        "latency_ms",
        "agreement",
    } == set(metrics["compressed"])
    assert metrics["compressed"]["bytes"] == (folder / "model.safetensors").stat().st_size
    widths = {name: int(entry.split("/")[0]) for name, entry in metrics["kept"].items()}
    assert load_model(folder / "model.safetensors").conv1.out_channels == widths["conv1"]
    with open(policy / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(f"kept/{name}" in rows[0] for name in widths)
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in (folder / "metrics.json", folder / "model.safetensors")}
    assert main_prune([word for word in options if word != "--plots"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_default_schedule_is_the_papers_and_scales_with_epochs():
    for more, expected in (([], (260, 40)), (["--epochs", "30"], (26, 4)), (["--policy-epochs", "7"], (7, 293))):
        options = parse(PruneModel, more).decore_options(50.0)
        assert (options.policy_recipe.epochs, options.recipe.epochs) == expected
    assert options.policy.learning_rate == 0.01 and options.agent_init == 6.9 and options.recipe.batch_size == 256


def test_another_target_reuses_policy(place, runs, monkeypatch, capsys):
    options = prune_words(place, "--saved-dir", str(runs), "--penalty", "0", "--no-latency")
    monkeypatch.setattr(policy_stage, "train_policy", None)  # a second call would fail
    assert main_prune([*options, "--target-macs", "0.6"]) == 0
    assert main_prune([*options, "--target-macs", "0.6", "--finetune-learning-rate", "0.5"]) == 2
    assert "--finetune" in capsys.readouterr().err


def test_several_penalties_produce_runs_and_one_plot(place, tmp_path):
    options = prune_words(
        place, "--saved-dir", str(tmp_path), "--penalty", "0", "auto", "--freeze", "--target-macs", "0.8"
    )
    assert main_prune(options) == 0
    assert (tmp_path / "resnet20.png").is_file()
    for label in ("resnet20-0-macs0.8", "resnet20-auto-macs0.8"):
        assert (tmp_path / label / "metrics.json").is_file() and (tmp_path / f"{label}.log").is_file()
    auto = read_json(tmp_path / "resnet20-auto-policy" / "metrics.json")["penalty"]
    required = auto / (1 + auto)
    assert required < 0.995  # at least the margin below the dense network's accuracy
    policy = load_model(tmp_path / "resnet20-auto-policy" / "model.safetensors").state_dict()
    dense = load_model(place / "net.safetensors").state_dict()
    assert all(torch.equal(policy[name], tensor) for name, tensor in dense.items())  # frozen


def test_fitted_penalty_requires_accuracy_minus_margin(monkeypatch):
    monkeypatch.setattr(policy_stage, "_training_accuracy", lambda *arguments: 0.997)
    trained = trained_resnet(train=20, test=20)
    penalty = policy_stage.fit_penalty(
        trained, trained.data.train, DecoreOptions(accuracy_margin=0.02), lambda line: None
    )
    assert penalty / (1 + penalty) == pytest.approx(0.977)


def test_holdout_replaces_test_images(place, tmp_path):
    options = words(place, "--epochs", "0", "--policy-epochs", "0", "--bn-images", "0", "--no-latency")
    options += ["--saved-dir", str(tmp_path), "--penalty", "0", "--holdout", "0.25"]
    assert main_prune(options) == 0
    data = load_dataset(f"folder:{place / 'images'}")
    config = read_json(tmp_path / "resnet20-0" / "config.json")
    assert config["data_fingerprint"] == data.holdout(0.25, 0).fingerprint != data.fingerprint


def test_recalibrated_statistics_are_of_pruned_network(tmp_path):
    """After pruning, batch norm holds mean and variance of its inputs on the training images."""
    trained = trained_resnet()
    recipe = TrainOptions(epochs=1, batch_size=30)
    options = DecoreOptions(PolicyOptions(penalty=0.0, frozen=True), recipe, recipe, target_macs=0.7, bn_images=60)
    stage = open_stage(tmp_path, "test", {}, log=lambda line: None)
    policy = policy_stage.run_policy_phase(trained, options, stage)
    with torch.no_grad():
        policy.agents.weight.normal_(3, 1, generator=torch.Generator().manual_seed(0))
    _, kept = method.select_channels(policy, options, Target(0.7), Limits())
    smaller = apply_decision(trained, Decision(kept, policy.model, recalibration_images(trained, 60, 0)))
    seen = []
    smaller.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.double()))
    with torch.no_grad():
        for batch in trained.data.train.batches(60, channels_last=True):
            smaller(batch.images)
    assert torch.allclose(smaller.bn1.running_mean.double(), seen[0].mean((0, 2, 3)), atol=1e-5)
    dense = policy.model.bn1.running_mean
    assert not torch.allclose(smaller.bn1.running_mean, dense[kept["conv1"]], atol=1e-3)


def test_investigation_writes_curves(place, tmp_path, capsys):
    options = words(
        place, "--epochs", "2", "--saved-dir", str(tmp_path), "--penalty", "5", "--drop-fractions", "0", "0.2", "0.5"
    )
    assert main_investigate([*options, "--random-trials", "2"]) == 0
    folder = tmp_path / "resnet20-5-policies"
    metrics = read_json(folder / "metrics.json")
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "metrics.json",
        "investigate_policies.png",
        "policies.png",
    }
    for name, points in metrics["curves"].items():
        assert [round(p["dropped"] * 448) for p in points] == [0, 90, 224]
        assert all(("std" in p) == (name == "random" and p["dropped"] > 0) for p in points)
        assert points[0]["top1"] == metrics["curves"]["low"][0]["top1"]
    assert "lowest first" in capsys.readouterr().out
    assert main_investigate([*options, "--random-trials", "2"]) == 0


def test_drop_orders_follow_weights_and_keep_one_channel_per_layer():
    trained = trained_resnet()
    agents = Agents(trained.model, trained.example)
    weights = torch.randn(448, generator=torch.Generator().manual_seed(0))
    low, high = investigate.drop_order(agents, weights), investigate.drop_order(agents, -weights)
    assert len(low) == 448 - len(agents.groups)
    assert (weights[low].diff() >= 0).all() and (weights[high].diff() <= 0).all()
    for order in (low, high):
        left = agents.split(investigate.mask_without(order, 448))
        assert all(int(mask.sum()) == 1 for mask in left.values())


def test_finished_runs_become_result_files(runs, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    file = tables.add_result(runs / "resnet20-0", results)
    record = read_json(file)
    assert file.name == "run-resnet20-0.json" and record["options"]["threshold"] == 0.5 and len(record["log"]) == 2
    label = (
        "this repository, penalty 0, extended (agents' learning rate 0.3, initial weight 2, batch norm recalibrated)"
    )
    assert tables._row(record)[1] == label
    small = tables._small_row({**record, "dataset": "digits", "penalty": 4.0})
    assert small[0] == "ResNet-20 on digits" and small[2:4] == ["4", "80.00"] and small[-1] == "2 on 32 images / 1"
    folder = runs / "resnet20-0"
    (folder / "metrics.json").write_text(json.dumps({**record, "dataset": "digits"}))
    assert tables.add_result(folder, results).name == "run-resnet20-0-digits.json"
    policy = {**record["options"]["policy"], "learning_rate": 0.01, "agent_init": 6.9}
    paper = {**record["options"], "policy": policy, "bn_images": 0}
    (results / "run-resnet20-0-digits.json").write_text(json.dumps({**record, "options": paper}))
    assert tables.add_result(folder, results).name == "run-resnet20-0-digits-extended.json"  # the paper's result stays
    with pytest.raises(UserError, match="not a run of"):
        tables.add_result(runs / "resnet20-0-policy", results)


def test_folder_of_runs_adds_all_of_them_also_with_penalties_of_one_digit(finished, tmp_path):
    """A pattern for names, as the README had it, left out penalties of one digit: DECORE-4, and all of ImageNet."""
    for given in ([finished], sorted(path for path in finished.iterdir() if path.is_dir())):
        results = tmp_path / f"results-{len(given)}"
        results.mkdir()
        lines = [line for folder in given for line in tables.add_results(folder, results).splitlines()]
        assert {file.name for file in results.iterdir()} == {f"run-resnet20-{p}.json" for p in (0, 4, 50)}
        assert sum("a policy phase" in line for line in lines) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished run"):
        tables.add_results(tmp_path / "empty", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        tables.add_results(tmp_path / "nowhere", tmp_path)


def test_agents_file_contains_tensors_by_group(finished):
    tensors = read_tensors(finished / "resnet20-0-policy" / "agents.safetensors")
    assert sum(t.numel() for t in tensors.values()) == 448 and tensors["conv1"].shape == (16,)
