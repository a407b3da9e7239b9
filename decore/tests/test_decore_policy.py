"""Policy phase: finds useless channels, resumes bit-identical, and is equal on two processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from decore_helpers import agents_and_cost, digits, flatten_state, small_net
from torch import nn

from common.errors import UserError
from common.testing import torchrun
from common.training import Hooks, TrainOptions, fit
from decore import Agents
from decore.policy import PolicyTraining, macs_per_channel, train_policy
from decore.policy_options import PolicyOptions
from decore.reward import largest_penalty

RECIPE = TrainOptions(epochs=3, batch_size=50, learning_rate=0.05, schedule="constant")
JOINT = PolicyOptions(penalty=2.0, learning_rate=0.05)
EXTRAS = PolicyOptions(
    penalty=2.0, learning_rate=0.05, reward_baseline=True, entropy=0.01, reward_by_macs=True, reward_topk=5
)


def train(options: PolicyOptions, recipe: TrainOptions = RECIPE, model=None, **more):
    model = small_net() if model is None else model
    agents, cost = agents_and_cost(model)
    rows = train_policy(model, agents, digits(200), recipe, options, cost, seed=1, **more)
    return model, agents, rows


@pytest.fixture(scope="module")
def classifier():
    """A classifier of digits with 24 hidden units, 12 of them disconnected: (network, useless units, accuracy, images)."""
    torch.manual_seed(0)
    useless = torch.randperm(24)[:12]
    hidden, last = nn.Linear(192, 24), nn.Linear(24, 10)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), hidden, nn.ReLU(), last)
    images = digits(1000)
    with torch.no_grad():
        last.weight[:, useless] = 0

    def disconnect_useless() -> None:
        with torch.no_grad():
            last.weight[:, useless] = 0

    recipe = TrainOptions(epochs=25, batch_size=50, learning_rate=0.05, weight_decay=0.0, augment=False)
    rows = fit(model, images, recipe, hooks=Hooks(after_step=disconnect_useless), seed=0)
    return model, useless, rows[-1]["train_top1"] / 100, images


def test_useless_channels_get_low_weights_and_are_best_to_drop(classifier):
    """The AUC of the weights is above 0.95 after 400 steps, and dropping by weight preserves accuracy."""
    model, useless, accuracy, images = classifier
    assert accuracy > 0.95
    agents, cost = agents_and_cost(model, init=3.0)
    options = PolicyOptions(penalty=largest_penalty(accuracy - 0.1), learning_rate=0.1, frozen=True)
    before = flatten_state(model)
    train_policy(model, agents, images, replace(RECIPE, epochs=20, augment=False), options, cost)
    assert torch.equal(flatten_state(model), before)  # frozen
    weights = agents.weight.detach()

    def accuracy_without(channels) -> float:
        mask = torch.ones(24).index_fill_(0, channels, 0.0)
        with torch.no_grad(), agents.masked(model, mask):
            batch = next(iter(images.batches(1000)))
            return float((model(batch.images).argmax(1) == batch.labels).double().mean())

    others = [i for i in range(24) if i not in useless.tolist()]
    useful = torch.tensor([i for i in others if accuracy_without(torch.tensor([i])) < accuracy - 0.01])
    assert len(useful) >= 8
    pairs = weights[useful][:, None] > weights[useless][None]
    assert float(pairs.double().mean()) > 0.95
    order = weights.argsort()
    low, high = accuracy_without(order[:10]), accuracy_without(order[-10:])
    assert low > accuracy - 0.02 and low - high > 0.3


def test_probabilities_fall_only_if_sign_condition_holds():
    """The mean of p decreases iff the accuracy under masks is above penalty / (1 + penalty)."""
    model = small_net()
    fit(model, digits(200), replace(RECIPE, epochs=8), seed=1)
    means = {}
    for penalty in (0.0, 1000.0):
        agents, cost = agents_and_cost(model, init=1.0)
        options = PolicyOptions(penalty=penalty, learning_rate=0.1, frozen=True)
        train_policy(model, agents, digits(200), replace(RECIPE, epochs=12), options, cost)
        means[penalty] = float(agents.probabilities.mean())
    assert means[0.0] < 0.55 and means[1000.0] > 0.8  # from sigmoid(1) = 0.73


def test_same_seed_is_bit_identical_and_log_is_complete():
    model, agents, rows = train(JOINT)
    again, agents_again, rows_again = train(JOINT)
    assert torch.equal(flatten_state(model), flatten_state(again)) and torch.equal(agents.weight, agents_again.weight)
    for row, other in zip(rows, rows_again, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}
    row = rows[-1]
    assert row["macs_kept"] == 1.0 or row["channels_kept"] < 1.0
    assert {"kept/0", "kept/3", "reward", "accuracy_reward", "dropped_share", "p_min"} <= set(row)
    assert row["accuracy_reward"] == pytest.approx(row["masked_accuracy"] / 100 * 3 - 2, abs=1e-3)
    assert row["masked_accuracy"] == pytest.approx(row["train_top1"], abs=1e-3)
    assert 0.05 < row["dropped_share"] < 0.2  # initially sigmoid(2) = 0.88


class Killed(Exception):
    pass


@pytest.mark.parametrize("options", [JOINT, EXTRAS, replace(EXTRAS, frozen=True)], ids=["joint", "extras", "frozen"])
def test_resumed_training_equals_uninterrupted_training(options, tmp_path, monkeypatch):
    """Interrupted in the second of three epochs; reward baseline, agents and their optimizer are restored too."""
    uninterrupted, agents, rows = train(options)
    calls = []
    start = PolicyTraining.start_epoch

    def stop_in_second_epoch(self, epoch):
        calls.append(epoch)
        if epoch == 1 and len(calls) == 2:
            raise Killed
        start(self, epoch)

    monkeypatch.setattr(PolicyTraining, "start_epoch", stop_in_second_epoch)
    with pytest.raises(Killed):
        train(options, folder=tmp_path)
    resumed, agents_resumed, rows_resumed = train(options, folder=tmp_path)
    assert calls == [0, 1, 1, 2]
    assert torch.equal(agents.weight, agents_resumed.weight) and torch.equal(
        flatten_state(uninterrupted), flatten_state(resumed)
    )
    assert [r["reward"] for r in rows] == [r["reward"] for r in rows_resumed]


def test_every_option_changes_learned_weights():
    weights = {}
    for name in ("none", "reward_baseline", "entropy", "reward_by_macs", "reward_topk", "penalty"):
        values = {"reward_baseline": True, "entropy": 0.5, "reward_by_macs": True, "reward_topk": 5, "penalty": 9.0}
        options = JOINT if name == "none" else replace(JOINT, **{name: values[name]})
        weights[name] = train(options, replace(RECIPE, epochs=1))[1].weight.detach()
    for name, weight in weights.items():
        assert name == "none" or not torch.equal(weight, weights["none"]), name


def test_macs_per_channel_equal_savings_of_removal():
    model = small_net()
    agents, cost = agents_and_cost(model)
    weights = macs_per_channel(agents, cost)
    assert float(weights.mean()) == pytest.approx(1.0)
    first, second = (float(part[0]) for part in agents.split(weights).values())
    saved = [cost.dense - cost.macs({"0": 5}), cost.dense - cost.macs({"3": 11})]
    assert first / second == pytest.approx(saved[0] / saved[1])


def test_mixed_precision_counts_exactly():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions")
    for options in (JOINT, replace(JOINT, frozen=True)):
        _, agents, rows = train(options, replace(RECIPE, amp=True, epochs=1))
        assert agents.weight.dtype == torch.float32 and torch.isfinite(agents.weight).all()
        drops = rows[0]["dropped_share"] * 200 * 18  # 200 examples, 18 agents: an integer
        assert drops == pytest.approx(round(drops), abs=0.01)


def test_tensorboard_and_log_are_written(tmp_path):
    train(JOINT, replace(RECIPE, epochs=1), folder=tmp_path / "run", tensorboard=tmp_path / "tb")
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0].split(",")
    assert "kept/0" in header and "macs_kept" in header
    assert list((tmp_path / "tb").iterdir())


@pytest.mark.parametrize(
    "wrong",
    [{"penalty": -1.0}, {"penalty": float("nan")}, {"learning_rate": -0.1}, {"entropy": -1.0}, {"reward_topk": 0}],
)
def test_options_out_of_range_raise(wrong):
    with pytest.raises(UserError, match="must be"):
        PolicyOptions(**wrong)


def test_joint_step_equals_sgd_on_masked_network_and_adam_on_agents():
    """Compare the training loop with both optimizers written out."""
    recipe = replace(RECIPE, epochs=2, momentum=0.0, weight_decay=0.0, augment=False)
    model, agents, _ = train(JOINT, recipe)
    plain = small_net().to(memory_format=torch.channels_last).train()
    expected, _ = agents_and_cost(plain)
    sgd = torch.optim.SGD(plain.parameters(), lr=recipe.learning_rate)
    adam = torch.optim.Adam(expected.parameters(), lr=JOINT.learning_rate)
    for epoch in range(2):
        for batch in digits(200).batches(50, shuffle=True, seed=1, epoch=epoch, channels_last=True):
            actions = expected.sample_for_examples(batch.indices, 1, epoch)
            with expected.masked(plain, actions):
                logits = plain(batch.images)
            correct = logits.argmax(1) == batch.labels
            sgd.zero_grad()
            F.cross_entropy(logits, batch.labels).backward()
            sgd.step()
            adam.zero_grad()
            log_pi = actions * F.logsigmoid(expected.weight) + (1 - actions) * F.logsigmoid(-expected.weight)
            accuracy = torch.where(correct, 1.0, -JOINT.penalty)
            loss = 0.0
            for name, part in expected.split(log_pi).items():
                reward = (1 - expected.split(actions)[name]).sum(1) * accuracy
                loss = loss - (reward * part.sum(1)).mean()
            loss.backward()
            adam.step()
    assert torch.allclose(flatten_state(model), flatten_state(plain), atol=1e-5)
    assert torch.allclose(agents.weight, expected.weight, atol=1e-5)


def test_two_gloo_processes_equal_one_process_with_split_batches(tmp_path):
    """With batch norm, compare with both halves of the batch; without it, or frozen, with the complete batch."""
    torchrun(Path(__file__).with_name("decore_gloo_worker.py"), tmp_path)
    import decore_gloo_worker as gloo

    for name in gloo.CASES:
        two = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        model, agents = gloo.train_on_split_batches() if name == "with_norm" else gloo.train_case(name)
        tolerance = {"atol": 2e-5, "rtol": 1e-4}
        assert torch.allclose(two["agents"], agents.weight.detach(), **tolerance), name
        for key, parameter in model.named_parameters():
            assert torch.allclose(two["model"][key], parameter.detach(), **tolerance), (name, key)


def test_agents_use_device_of_network():
    model = small_net()
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    assert agents.weight.device == next(model.parameters()).device
    assert agents.to(torch.float64).weight.dtype == torch.float64


def test_frozen_network_is_unchanged_including_batch_norm():
    model = small_net()
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))  # change the initial statistics
    before = flatten_state(model)
    _, agents, rows = train(replace(JOINT, frozen=True), model=model)
    assert torch.equal(flatten_state(model), before) and all(p.grad is None for p in model.parameters())
    assert not torch.equal(agents.weight, torch.full_like(agents.weight, 2.0))
    assert not model.training and len(rows) == 3
