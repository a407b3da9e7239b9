"""DECORE on a GPU: the same actions as on a CPU, steps without synchronization, masked equals removed; `pytest -m cuda`."""

import pytest
import torch
from decore_helpers import agents_and_cost, digits

from common.channels import keep_channels
from common.models import create_model
from common.testing import random_network
from common.testing.steps import run_training_steps
from common.training import Hooks, TrainOptions, distillation_loss
from decore.actions import bernoulli
from decore.policy import PolicyTraining, train_policy
from decore.policy_options import PolicyOptions

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)
RECIPE = TrainOptions(epochs=1, batch_size=50, learning_rate=0.05, schedule="constant")
POLICIES = [PolicyOptions(reward_baseline=True, reward_by_macs=True), PolicyOptions(frozen=True)]


def test_09_actions_are_bit_identical_to_cpu():
    probabilities, examples = torch.linspace(0.01, 0.99, 101), torch.randperm(200)
    expected = bernoulli(probabilities, examples, seed=3, epoch=2)
    found = bernoulli(probabilities.to(DEVICE), examples.to(DEVICE), seed=3, epoch=2)
    assert found.device == DEVICE and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("options", POLICIES)
def test_09_policy_step_never_synchronizes(options):
    model = create_model("resnet20")
    agents, cost = agents_and_cost(model)
    model.to(DEVICE, memory_format=torch.channels_last)
    agents.to(DEVICE)
    training = PolicyTraining(agents, model, options, cost, seed=0)
    run_training_steps(agents if options.frozen else model, training.hooks(), DEVICE)
    assert training.examples == 20 * 16 and torch.isfinite(agents.weight).all()


def test_09_distillation_step_never_synchronizes():
    teacher = create_model("resnet20").to(DEVICE, memory_format=torch.channels_last)
    run_training_steps(create_model("resnet20"), Hooks(loss=distillation_loss(teacher, 0.5)), DEVICE)


@pytest.mark.parametrize("options", POLICIES)
def test_09_policy_epoch_equals_cpu(options):
    """Four steps on CPU and GPU: the same masks, and agents that differ by rounding only."""
    found = {}
    for device in (torch.device("cpu"), DEVICE):
        model = random_network("resnet20")
        agents, cost = agents_and_cost(model)
        rows = train_policy(model, agents, digits(200), RECIPE, options, cost, device=device, seed=1)
        found[device.type] = rows[0], agents.weight.detach().cpu()
        assert not any(module._forward_pre_hooks for module in model.modules())
    (expected, weights), (row, cuda_weights) = found["cpu"], found[DEVICE.type]
    assert row["dropped_share"] == pytest.approx(expected["dropped_share"], abs=5e-3)
    assert float((cuda_weights - weights).abs().max()) < 0.1


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_09_masked_equals_removed(arch):
    """In float64, where rounding cannot hide an error."""
    model = random_network(arch)
    agents, _ = agents_and_cost(model)
    with torch.no_grad():
        agents.weight.normal_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    model.to(DEVICE)
    agents.to(DEVICE)
    kept = agents.kept_channels()
    masks = {g.name: torch.zeros(g.size, device=DEVICE) for g in agents.groups}
    for name, mask in masks.items():
        mask[kept[name]] = 1
    smaller = keep_channels(model, torch.zeros(1, 3, 32, 32, device=DEVICE), kept).double()
    x = torch.randn(4, 3, 32, 32, device=DEVICE, dtype=torch.float64)
    with torch.no_grad(), agents.masked(model.double(), masks):
        masked = model(x)
    with torch.no_grad():
        assert float((smaller(x) - masked).abs().max()) < 1e-9 * max(1.0, float(masked.abs().max()))
