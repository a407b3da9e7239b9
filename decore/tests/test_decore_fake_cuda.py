"""DECORE's training steps on fake CUDA tensors: no copies and no synchronization after the first step."""

import pytest
import torch
from decore_helpers import agents_and_cost

from common.models import create_model
from common.testing.fake_cuda import DEVICE, assert_no_transfers, fake_cuda, step_transfers
from common.training import Hooks, distillation_loss
from decore.policy import PolicyTraining
from decore.policy_options import PolicyOptions

EXTRAS = PolicyOptions(reward_baseline=True, entropy=0.01, reward_by_macs=True, reward_topk=5)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet20", PolicyOptions()),
        ("vgg16", EXTRAS),
        ("resnet20", PolicyOptions(frozen=True)),
        ("vgg16", PolicyOptions(frozen=True)),
    ],
)
def test_fault_11_policy_step_never_synchronizes(arch, options):
    model = create_model(arch)
    agents, cost = agents_and_cost(model)
    with fake_cuda():
        model.to(DEVICE, memory_format=torch.channels_last)
        agents.to(DEVICE)
        training = PolicyTraining(agents, model, options, cost, seed=0)
        learner = agents if options.frozen else model
        _, second = step_transfers(learner, training.hooks())
        assert_no_transfers(second)
        assert agents.weight.is_cuda and agents.weight.grad is not None
    assert training.examples == 32


def test_distillation_step_never_synchronizes():
    student, teacher = create_model("resnet20"), create_model("resnet20")
    with fake_cuda():
        teacher.to(DEVICE, memory_format=torch.channels_last)
        _, second = step_transfers(student, Hooks(loss=distillation_loss(teacher, 0.5)))
        assert_no_transfers(second)
