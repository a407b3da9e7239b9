"""Pipeline: decisions are applied, fine-tuned, saved, reloaded and measured; limits hold; chains have a reference."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.limits import Limits
from common.methods import Decision, Method
from common.pipeline import FineTuning, apply_decision, compress, fine_tuning_hooks
from common.runs import open_stage
from common.target import Target
from common.testing import noise_bundle, random_network, run_method
from common.trained_model import TrainedModel, check_trained_model, read_trained_model
from common.training import TrainOptions, distillation_loss

RECIPE = TrainOptions(epochs=1, batch_size=10, learning_rate=0.05)


@pytest.fixture
def start(tmp_path):
    """A ResNet-20 with random weights, in a file, and noise images."""
    save_model(tmp_path / "dense.safetensors", random_network("resnet20"))
    return read_trained_model(tmp_path / "dense.safetensors", noise_bundle(20, 20))


def half(start: TrainedModel, target: Target | None, stage) -> Decision:
    """Keep the first half of every group."""
    return Decision({group.name: range(group.size // 2) for group in start.groups}, report={"toy": 1})


TOY = Method("toy", half)


def test_saved_network_and_metrics_match_decision(start, tmp_path):
    metrics = run_method(TOY, start, None, tmp_path / "run")
    expected = keep_channels(start.model, start.example, half(start, None, None).kept)
    saved = load_model(tmp_path / "run" / metrics["file"])
    assert all(torch.equal(saved.state_dict()[n], t) for n, t in expected.state_dict().items())
    assert metrics["toy"] == 1 and metrics["after_cut"] == metrics["compressed"]
    assert metrics["compressed"]["bytes"] == (tmp_path / "run" / metrics["file"]).stat().st_size
    decision = json.loads((tmp_path / "run" / "decision.json").read_text())
    assert decision["kept"]["conv1"] == list(range(8)) and decision["report"] == {"toy": 1}


def test_starting_network_is_not_modified(start, tmp_path):
    before = copy.deepcopy(start.model.state_dict())
    run_method(TOY, start, None, tmp_path / "run", recipe=RECIPE, finetune=True)
    run_method(
        Method("nothing", lambda *_: Decision()), start, None, tmp_path / "unpruned", recipe=RECIPE, finetune=True
    )
    assert all(torch.equal(start.model.state_dict()[n], t) for n, t in before.items())
    assert start.model.conv1.weight.is_contiguous()


def test_pruned_network_is_measured_before_fine_tuning(start, tmp_path):
    tuned = run_method(TOY, start, None, tmp_path / "tuned", recipe=RECIPE, finetune=True)
    plain = run_method(TOY, start, None, tmp_path / "plain")
    same = ("top1", "loss", "macs", "agreement")
    assert all(tuned["after_cut"][key] == plain["compressed"][key] for key in same)
    assert tuned["compressed"]["loss"] != tuned["after_cut"]["loss"]


def test_bytes_method_is_not_fine_tuned(start, tmp_path):
    metrics = run_method(replace(TOY, axis="bytes"), start, None, tmp_path / "run", recipe=RECIPE, finetune=True)
    assert metrics["compressed"] == metrics["after_cut"]


def test_finished_run_is_read_without_calling_method(start, tmp_path):
    first = run_method(TOY, start, None, tmp_path / "run")
    assert run_method(replace(TOY, decide=None), start, None, tmp_path / "run") == first


def test_batch_norm_is_recalibrated_on_inputs_of_decision(start):
    inputs = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = apply_decision(start, replace(half(start, None, None), recalibrate=[inputs]))
    with torch.no_grad():
        seen = network.conv1(inputs).double().mean((0, 2, 3))
    assert torch.allclose(network.bn1.running_mean.double(), seen, atol=1e-5)
    plain = apply_decision(start, half(start, None, None))
    assert not torch.allclose(plain.bn1.running_mean.double(), seen, atol=1e-3)


def test_agreement_is_measured_against_reference(start, tmp_path):
    run_method(TOY, start, None, tmp_path / "one")
    second = read_trained_model(tmp_path / "one" / "model.safetensors", start.data, reference=start)
    metrics = run_method(Method("nothing", lambda *_: Decision()), second, 1.0, tmp_path / "two")
    assert metrics["baseline"]["macs"] == start.cost.dense > metrics["compressed"]["macs"]
    agree = (second.accuracy.predictions == start.accuracy.predictions).double().mean()
    assert metrics["compressed"]["agreement"] == pytest.approx(100 * float(agree))


def test_fine_tuning_distills_from_reference_on_request(start, tmp_path):
    stage = open_stage(tmp_path / "stage", "test", {}, log=lambda line: None)
    assert fine_tuning_hooks(stage, start, FineTuning(RECIPE)).loss is None
    student, batch = random_network("resnet20", 1).eval(), next(iter(start.data.train.batches(6)))
    for trained in (start, TrainedModel("other", random_network("resnet20", 2), start.data, reference=start)):
        loss = fine_tuning_hooks(stage, trained, FineTuning(RECIPE, distill=0.9)).loss
        expected, _ = distillation_loss(start.copy(), 0.9)(student, batch)
        assert torch.equal(loss(student, batch)[0], expected)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(ignored=("conv1",)), "exclude it from pruning"),
        (Limits(only=("layer1.0.conv1",)), "exclude it from pruning"),
        (Limits(min_channels=9), "at least 9"),
        (Limits(max_pruned=0.25), "at least"),
        (Limits(round_to=5), "multiple of 5"),
    ],
)
def test_decision_beyond_limits_raises(start, limits, message):
    limited = replace(start, limits=limits)
    with pytest.raises(UserError, match=message):
        apply_decision(limited, half(start, None, None))
    assert apply_decision(
        replace(start, limits=Limits(min_channels=8, max_pruned=0.5, round_to=8)), half(start, None, None)
    )


def test_groups_exclude_ignored_layers(start):
    limited = replace(start, limits=Limits(ignored=("layer1.0.conv1",)))
    names = [group.name for group in channel_groups(start.model, start.example)]
    assert [group.name for group in limited.groups] == [name for name in names if name != "layer1.0.conv1"]
    assert limited.cost.dense == start.cost.dense


def test_unusable_network_raises_with_file(start):
    data = start.data
    damaged = random_network("resnet20")
    with torch.no_grad():
        damaged.conv1.weight[0] = float("nan")
    for model, message in (
        (damaged, "finite"),
        (random_network("resnet20", num_classes=7), "noise has 10 classes"),
        (nn.Linear(3, 10), "does not accept"),
    ):
        with pytest.raises(UserError, match=message):
            check_trained_model(TrainedModel("x", model, data))


def test_run_without_target_follows_method(start, tmp_path):
    stage = open_stage(tmp_path / "run", "test", {}, log=lambda line: None)
    metrics = compress(TOY, start, None, stage, latency=False, details=lambda outcome: {"epochs": len(outcome.log)})
    assert metrics["epochs"] == 0 and metrics["compressed"]["macs"] < 0.5 * start.cost.dense
