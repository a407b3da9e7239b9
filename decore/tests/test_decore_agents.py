"""Agents: rewards, gradients compared with enumeration, shared masks, sampling, kept channels."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from common.data.counter_rng import hash_key, random_bits
from common.errors import UserError
from common.models import create_model
from decore import Agents
from decore.actions import _finalize, bernoulli, uniforms
from decore.reward import (
    accuracy_reward,
    compression_reward,
    correct_predictions,
    largest_penalty,
    required_accuracy,
)

PENALTY = 4.0


def tiny(channels: int = 6) -> nn.Module:
    """Build a network with one channel group: convolution, ReLU, pooling, linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)
    )


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def agents_of(model: nn.Module, *shape: int, weights=None) -> Agents:
    agents = Agents(model, torch.zeros(1, *(shape or (3, 8, 8))))
    if weights is not None:
        with torch.no_grad():
            agents.weight.copy_(torch.as_tensor(weights))
    return agents


def all_actions(channels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=channels)))


def exact_gradient(agents: Agents, correct_of) -> torch.Tensor:
    """Compute d/dw of E[sum_i R_i log pi], the sum over all actions of pi(a) R(a) (a - p), in float64.

    correct_of: actions -> whether the network predicts correctly.
    """
    actions = all_actions(len(agents.weight)).double()
    p = torch.sigmoid(agents.weight.detach().double())
    probability = torch.where(actions == 1, p, 1 - p).prod(1)
    accuracy = torch.where(correct_of(actions), 1.0, -PENALTY).double()
    gradient = torch.zeros(len(p), dtype=torch.float64)
    for layer in range(len(agents.groups)):
        mine = agents.layer_index == layer
        reward = (1 - actions[:, mine]).sum(1) * accuracy
        gradient[mine] = ((probability * reward)[:, None] * (actions[:, mine] - p[mine])).sum(0)
    return gradient


def majority(actions: torch.Tensor) -> torch.Tensor:
    """An arbitrary rule that maps actions to correctness."""
    return actions[:, 0] + 0.5 * actions[:, 1] + 0.25 * actions[:, 2:].sum(1) > 1.2


def test_untrained_agent_keeps_999_of_1000():
    agents = agents_of(tiny())
    assert float(agents.probabilities.min()) > 0.9989 and float(agents.probabilities.max()) < 0.9991
    assert agents.kept_channels() == {"0": [0, 1, 2, 3, 4, 5]}


def test_weights_are_only_parameters():
    agents = agents_of(create_model("resnet20"), 3, 32, 32)
    assert [tuple(p.shape) for p in agents.parameters()] == [(448,)]
    assert list(agents.state_dict()) == ["weight"]


def test_vgg16_has_4736_agents():
    assert len(agents_of(create_model("vgg16"), 3, 32, 32).weight) == 4736


def test_network_without_removable_channels_raises():
    with pytest.raises(UserError, match="no removable channels"):
        Agents(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.zeros(1, 3, 2, 2))


def test_rewards_match_manual_values():
    correct = torch.tensor([True, False, True])
    assert accuracy_reward(correct, 4).tolist() == [1, -4, 1]
    actions = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1.0]])
    layers = torch.tensor([0, 0, 1, 1, 1])
    assert compression_reward(actions, layers, 2).tolist() == [[1, 2], [0, 1], [0, 0]]
    weights = torch.tensor([2.0, 3.0, 1.0, 1.0, 5.0])
    assert compression_reward(actions, layers, 2, weights).tolist() == [[3, 6], [0, 5], [0, 0]]
    agents = agents_of(two_layers(), 5)
    rewards = agents.rewards(torch.tensor([[0, 1, 1, 0, 0, 1, 1, 1.0]]), torch.tensor([False]), 4)
    assert rewards.tolist() == [[-4, -8]]


def test_top5_accepts_label_among_five_largest_logits():
    logits = torch.tensor([[9, 8, 7, 6, 5, 4.0], [9, 8, 7, 6, 5, 4.0]])
    labels = torch.tensor([4, 5])
    assert correct_predictions(logits, labels, 5).tolist() == [True, False]
    assert correct_predictions(logits, labels, 1).tolist() == [False, False]
    assert correct_predictions(logits[:, :3], torch.tensor([2, 0]), 5).tolist() == [True, True]


@pytest.mark.parametrize(("penalty", "accuracy"), [(4, 0.8), (50, 0.98039), (100, 0.990099), (500, 0.998004)])
def test_sign_condition_holds(penalty, accuracy):
    assert required_accuracy(penalty) == pytest.approx(accuracy, abs=1e-5)
    assert largest_penalty(required_accuracy(penalty)) == pytest.approx(penalty)
    right = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < accuracy
    assert abs(float(accuracy_reward(right, penalty).mean())) < 4 * (1 + penalty) * math.sqrt(
        accuracy * (1 - accuracy) / 2e5
    )
    assert largest_penalty(1.0) == math.inf


def test_log_pi_gradient_is_a_minus_p_and_finite_for_large_weights():
    """With one channel, R = 1 if it is dropped and the prediction is correct, so minus the loss is log pi of the action."""
    for w in (-50.0, -3.0, 0.0, 3.0, 50.0):
        agents = agents_of(tiny(1), weights=[w])
        p = torch.sigmoid(torch.tensor(w, dtype=torch.float64))
        for a in (0.0, 1.0):
            agents.zero_grad()
            loss = agents.policy_loss(torch.tensor([[a]]), torch.tensor([[1.0]]))
            loss.backward()
            assert torch.isfinite(loss)
            assert float(-agents.weight.grad) == pytest.approx(float(a - p), abs=1e-6)


def test_expected_loss_gradient_equals_enumeration():
    """The gradients of all 2^8 actions, weighted by their probabilities, sum to the exact gradient."""
    weights = [-1.0, 0.5, 2.0, 0.0, 1.0, -0.5, 3.0, 0.2]
    agents = agents_of(two_layers(), 5, weights=weights)
    actions = all_actions(8)
    p = agents.probabilities
    gradient = torch.zeros(8)
    for action in actions:
        agents.zero_grad()
        agents.loss(action[None], majority(action[None]), PENALTY).backward()
        gradient += torch.where(action == 1, p, 1 - p).prod() * agents.weight.grad
    assert torch.allclose(-gradient.double(), exact_gradient(agents, majority), atol=1e-5)


def test_monte_carlo_gradient_agrees_with_exact_gradient():
    agents = agents_of(tiny(), weights=[-1.0, 0.5, 2.0, 0.0, 1.0, -0.5])
    actions = agents.sample_for_examples(torch.arange(400_000), seed=0, epoch=0)
    agents.loss(actions, majority(actions), PENALTY).backward()
    assert torch.allclose(-agents.weight.grad.double(), exact_gradient(agents, majority), atol=0.03)


def test_expected_gradient_for_correct_predictions_is_minus_p_times_1_minus_p():
    agents = agents_of(tiny(), weights=[-1.0, 0.5, 2.0, 0.0, 1.0, -0.5])
    p = agents.probabilities.double()
    always = lambda actions: torch.ones(len(actions), dtype=torch.bool)  # noqa: E731
    assert torch.allclose(exact_gradient(agents, always), -p * (1 - p), atol=1e-12)
    actions = agents.sample_for_examples(torch.arange(200_000), seed=1, epoch=0)
    agents.loss(actions, always(actions), PENALTY).backward()
    assert torch.allclose(-agents.weight.grad.double(), -p * (1 - p), atol=0.02)


def test_gradient_for_wrong_predictions_is_zero_without_penalty_and_scales_with_it():
    agents = agents_of(tiny(), weights=[-1.0, 0.5, 2.0, 0.0, 1.0, -0.5])
    actions = agents.sample_for_examples(torch.arange(100), 0, 0)
    wrong = torch.zeros(100, dtype=torch.bool)
    agents.loss(actions, wrong, 0.0).backward()
    assert torch.equal(agents.weight.grad, torch.zeros(6))
    gradients = []
    for penalty in (1.0, 3.0):
        agents.zero_grad()
        agents.loss(actions, wrong, penalty).backward()
        gradients.append(agents.weight.grad.clone())
    assert torch.allclose(3 * gradients[0], gradients[1], atol=1e-5)


def test_reward_baseline_preserves_expected_gradient():
    """The sum over actions of pi(a) (a - p) is zero, so a constant may be subtracted from the rewards."""
    agents = agents_of(tiny(4), weights=[-1.0, 0.5, 2.0, 0.0])
    actions, p = all_actions(4), agents.probabilities
    gradients = []
    for baseline in (None, torch.tensor([0.7])):
        total = torch.zeros(4)
        for action in actions:
            agents.zero_grad()
            agents.loss(action[None], majority(action[None]), PENALTY, reward_baseline=baseline).backward()
            total += torch.where(action == 1, p, 1 - p).prod() * agents.weight.grad
        gradients.append(total)
    assert torch.allclose(*gradients, atol=1e-6)
    agents.zero_grad()
    agents.loss(actions[:1], majority(actions[:1]), PENALTY, reward_baseline=torch.tensor([0.7])).backward()
    with_baseline = agents.weight.grad.clone()
    agents.zero_grad()
    agents.loss(actions[:1], majority(actions[:1]), PENALTY).backward()
    assert not torch.allclose(with_baseline, agents.weight.grad)


def test_entropy_moves_probabilities_towards_one_half():
    agents = agents_of(tiny(3), weights=[-2.0, 0.0, 3.0])
    assert float(agents.entropy()) == pytest.approx(
        sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in agents.probabilities.tolist()), abs=1e-6
    )
    actions = torch.ones(1, 3)  # no channel is dropped: rewards are zero, and only the entropy remains
    agents.loss(actions, torch.tensor([True]), 4.0, entropy=0.1).backward()
    step = -agents.weight.grad
    assert step[0] > 0 and step[1].abs() < 1e-7 and step[2] < 0


def test_network_and_agents_receive_separate_gradients():
    model = create_model("resnet20")
    agents = agents_of(model, 3, 32, 32)
    actions = agents.sample_for_examples(torch.arange(4), 0, 0)
    with agents.masked(model, actions):
        logits = model(torch.randn(4, 3, 32, 32))
    labels = torch.tensor([0, 1, 2, 3])
    agents.loss(actions, logits.argmax(1) == labels, PENALTY).backward()
    assert agents.weight.grad is not None and all(p.grad is None for p in model.parameters())
    agents.zero_grad()
    nn.functional.cross_entropy(logits, labels).backward()
    assert agents.weight.grad is None and all(p.grad is not None for p in model.parameters())


def test_residual_stream_shares_action_and_next_epoch_resamples():
    """All consumers of a residual stream are masked alike."""
    model = create_model("resnet20").eval()
    agents = agents_of(model, 3, 32, 32)
    stream = next(g for g in agents.groups if len(g.producers) > 2)
    consumers = [name for name, _ in stream.consumers]
    assert len(consumers) >= 3
    modules, seen = dict(model.named_modules()), {}

    def zeros_of(name):
        return lambda module, inputs: seen.setdefault(name, []).append((inputs[0] == 0).flatten(2).all(2))

    with torch.no_grad():
        agents.weight.fill_(0.0)
    sampled = [agents.split(agents.sample_for_examples(torch.arange(8), 0, epoch))[stream.name] for epoch in (0, 1)]
    for epoch in (0, 1):
        with torch.no_grad(), agents.masked(model, agents.sample_for_examples(torch.arange(8), 0, epoch)):
            handles = [modules[name].register_forward_pre_hook(zeros_of(name)) for name in consumers]
            model(torch.randn(8, 3, 32, 32))
            for handle in handles:
                handle.remove()
    for name in consumers:
        for epoch, zeros in enumerate(seen[name]):
            assert zeros[:, : stream.size][sampled[epoch] == 0].all(), name
    assert not torch.equal(*sampled)


def test_samples_depend_on_seed_epoch_and_example_only():
    p = torch.full((37,), 0.5)
    together = bernoulli(p, torch.arange(100), seed=3, epoch=2)
    shuffled = torch.randperm(100)
    assert torch.equal(bernoulli(p, shuffled, 3, 2), together[shuffled])
    assert torch.equal(
        torch.cat([bernoulli(p, torch.arange(50), 3, 2), bernoulli(p, torch.arange(50, 100), 3, 2)]), together
    )
    for other in (bernoulli(p, torch.arange(100), 4, 2), bernoulli(p, torch.arange(100), 3, 3)):
        assert 0.4 < float((other == together).float().mean()) < 0.6


def test_hash_equals_counter_rng_hash():
    """int64 in torch wraps around like uint64 in numpy."""
    indices = np.arange(1000)
    key = hash_key(5, 6, 0xDEC0)
    expected = random_bits(key, indices)
    step = torch.tensor(0x9E3779B97F4A7C15 - 2**64)
    signed = torch.tensor(key if key < 2**63 else key - 2**64)
    found = _finalize((torch.from_numpy(indices) + 1) * step + signed)
    assert np.array_equal(found.numpy().view(np.uint64), expected)


def test_samples_are_uniform_and_independent():
    u = uniforms(torch.arange(20_000), 11, 0, 0).double()
    assert float(u.min()) >= 0 and float(u.max()) < 1
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / n)
    assert abs(float(u.var()) - 1 / 12) < 0.001
    correlations = torch.corrcoef(u.T) - torch.eye(11)
    assert float(correlations.abs().max()) < 5 / math.sqrt(len(u))


def test_number_of_drops_matches_probabilities():
    agents = agents_of(create_model("resnet20"), 3, 32, 32)
    with torch.no_grad():
        agents.weight.uniform_(-1, 5)
    p = agents.probabilities.double()
    for actions in (
        agents.sample_for_examples(torch.arange(5000), 0, 0),
        agents.join(agents.sample(5000, torch.Generator().manual_seed(1))),
    ):
        assert set(actions.unique().tolist()) == {0.0, 1.0}
        dropped = float((1 - actions).double().sum(1).mean())
        assert abs(dropped - float((1 - p).sum())) < 4 * math.sqrt(float((p * (1 - p)).sum()) / 5000)


def test_sampling_splits_actions_by_group():
    agents = agents_of(two_layers(), 5)
    assert {name: tuple(part.shape) for name, part in agents.sample(7).items()} == {"0": (7, 3), "2": (7, 5)}
    flat = agents.sample_for_examples(torch.arange(7), 0, 0)
    assert torch.equal(agents.join(agents.split(flat)), flat)
    correct = torch.ones(7, dtype=torch.bool)
    assert torch.equal(agents.loss(agents.split(flat), correct, 4.0), agents.loss(flat, correct, 4.0))


def test_agents_of_another_network_raise():
    agents = agents_of(two_layers(), 5)
    good = agents.weights_by_group()
    assert torch.equal(agents_of(two_layers(), 5).load_weights(good).weight, agents.weight)
    for wrong, word in (
        ({"0": good["0"]}, "2"),
        ({"0": [1.0], "2": good["2"]}, "0"),
        ({**good, "9": [1.0]}, "9"),
    ):
        with pytest.raises(UserError, match=word):
            agents.load_weights(wrong)
