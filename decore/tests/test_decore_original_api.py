"""API of the original code: ``Agent`` on its own, ``attach_agents``, ``train``, ``validate``."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from decore_helpers import small_net
from torch import nn

from common.channels import channel_groups, masked
from common.errors import UserError
from common.models import create_model
from decore.original_api import BINARY_INV, Agent, attach_agents, train, validate

LOG_KEYS = {
    *("total_samples", "num_channels_dropped", "total_channels", "accuracy", "loss_model_avg", "loss_agents_avg"),
    *("accuracy_reward_avg", "compression_reward_avg", "full_reward_avg", "weights_avg", "probabilities_avg"),
    *("p_min", "p_max"),
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def batches(count=2):
    return [(torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))) for _ in range(count)]


def test_scripts_have_names_of_original_code(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    for module in ("agents", "models", "training_utils"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    import agents
    import models
    import training_utils

    assert agents.Agent is Agent and agents.attach_agents is attach_agents
    assert training_utils.train is train and training_utils.validate is validate
    assert sum(parameter.numel() for parameter in models.VGG16().parameters()) == 14_991_946


def test_signatures_are_those_of_original_code():
    assert (
        str(inspect.signature(Agent))
        == "(w: torch.Tensor, prob_threshold: float = 0.5, threshold_type: str = 'BINARY') -> None"
    )
    names = {function: list(inspect.signature(function).parameters) for function in (attach_agents, train, validate)}
    assert names[attach_agents][:4] == ["model", "modules_to_prune", "device", "init_weight"]
    assert names[validate] == ["model", "loader", "device"]
    assert names[train] == [
        *("model", "agents", "loader", "optimizer_model", "optimizer_agents", "criterion_model", "penalty", "device"),
        *("optimize_agents", "optimize_model"),
    ]


def test_agent_masks_outputs_of_attached_module():
    conv = nn.Conv2d(3, 6, 3)
    dense = conv(IMAGES)
    agent = Agent(torch.tensor([-50.0, 50.0, -50.0, 50.0, 50.0, -50.0]))
    agent.attach_module(conv, "conv")
    kept = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    assert torch.equal(conv(IMAGES), dense * kept.view(1, 6, 1, 1))
    agent.eval()
    assert torch.equal(conv(IMAGES), dense * kept.view(1, 6, 1, 1))
    agent.eval(0.5, BINARY_INV)
    assert torch.equal(conv(IMAGES), dense * (1 - kept).view(1, 6, 1, 1))
    assert torch.equal(agent.get_masks()["conv"]["weight"], (1 - kept).view(6, 1, 1, 1).expand(6, 3, 3, 3))


def test_modules_of_one_agent_share_actions_of_one_forward_pass():
    first, second = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
    agent = Agent(torch.zeros(6))
    agent.attach_module(first, "first")
    agent.attach_module(second, "second")
    seen = []
    for _ in range(2):
        first(IMAGES)
        seen.append(agent.actions)
        second(torch.zeros(4, 6, 2, 2))
        assert agent.actions is seen[-1] and seen[-1].shape == (4, 6)
    assert not torch.equal(*seen)  # a new forward pass has a new sample
    first(IMAGES[:2])
    assert len(agent.actions) == 2  # also after an incomplete one
    agent.reset()
    assert agent.actions is None


def test_agent_weights_are_trained_by_any_optimizer():
    agent = Agent(torch.full((6,), 6.9))
    assert agent.w.requires_grad and agent.w.is_leaf
    own = torch.zeros(6, requires_grad=True)
    assert Agent(own, 0.7, BINARY_INV).w is own
    with pytest.raises(UserError, match="BINARY_INV"):
        agent.eval(0.5, "INVERSE")


def test_change_of_threshold_keeps_its_type():
    agent = Agent(torch.tensor([-1.0, 0.5, 2.0]))
    agent.eval(0.5, BINARY_INV)
    assert agent.get_actions("a", 1).tolist() == [[1, 0, 0]]
    agent.change_prob_threshold(0.7)
    assert agent.get_actions("a", 1).tolist() == [[1, 1, 0]]


def test_attached_agents_mask_every_forward_pass_as_if_channels_were_removed():
    model = small_net().eval()
    dense, groups = model(IMAGES), channel_groups(model, IMAGES[:1])
    agents, _, count, channels = attach_agents(model, ["0", "3"], example_input=IMAGES[:1])
    assert (count, channels) == (2, 18)
    for agent in agents:
        agent.eval()
    assert torch.equal(model(IMAGES), dense)  # p = 0.999 everywhere
    with torch.no_grad():
        next(iter(agents)).w[2:5] = -1.0
    mask = torch.tensor([1.0, 1, 0, 0, 0, 1])
    expected = small_net().eval()
    with masked(expected, groups, {groups[0].name: mask}):
        assert torch.equal(model(IMAGES), expected(IMAGES)) and not torch.equal(model(IMAGES), dense)
    with pytest.raises(RuntimeError):
        model(IMAGES[:, :1])
    assert torch.equal(model(IMAGES), model(IMAGES))  # after an interrupted forward pass


def test_training_and_validation_return_values_of_original_code():
    torch.manual_seed(0)
    model = create_model("vgg16")
    names = [name for name, module in model.named_modules() if name.startswith("features.conv")]
    agents, by_name, count, channels = attach_agents(model, names)
    assert count == 13 and channels == 4224 and len(by_name) == 26  # each convolution and its batch norm
    agent = by_name["features.conv0"]
    assert agent is by_name["features.norm0"] and agent.get_actions("features.conv0", 5).shape == (5, 64)
    data = batches()
    sgd, adam = torch.optim.SGD(model.parameters(), lr=0.01), torch.optim.Adam(agents.parameters(), lr=0.1)
    before = [agent.w.detach().clone() for agent in agents]
    log = train(model, agents, data, sgd, adam, nn.CrossEntropyLoss(), 4, "cpu")
    assert set(log) == LOG_KEYS
    assert log["total_samples"] == 8 and log["total_channels"] == 4224
    assert log["accuracy_reward_avg"] == pytest.approx(5 * log["accuracy"] / 100 - 4)
    assert any(not torch.equal(old, agent.w) for old, agent in zip(before, agents, strict=True))
    with pytest.raises(UserError, match="eval"):
        agent.get_masks()
    with pytest.raises(UserError, match="eval"):
        validate(model, data, "cpu")
    for handle in agents:
        with torch.no_grad():
            handle.w.normal_()
        (name,) = handle.modules
        handle.eval(0.6)
        kept = handle.get_masks()[name]["weight"]
        handle.eval(0.6, BINARY_INV)
        assert torch.equal(kept + handle.get_masks()[name]["weight"], torch.ones_like(kept))
    assert 0 <= validate(model, data, "cpu") <= 100


def test_original_training_has_gradient_of_package():
    """The loss of ``train`` is that of ``decore.Agents`` for the same actions."""
    from decore import Agents

    model = small_net()
    agents, *_ = attach_agents(model, ["0", "3"], init_weight=1.0, example_input=IMAGES[:1])
    right = model(IMAGES).argmax(1) == torch.tensor([0, 1, 2, 3])
    loss, rewards, actions = agents.loss_and_rewards(right, 4)
    loss.backward()
    reference = Agents(small_net(), IMAGES[:1], 1.0)
    reference.loss(actions, right, 4).backward()
    assert torch.allclose(torch.cat([agent.w.grad for agent in agents]), reference.weight.grad)
    assert torch.equal(rewards, reference.rewards(actions, right, 4))


def test_training_without_optimizers_changes_nothing():
    model = small_net()
    agents, *_ = attach_agents(model, ["0"], init_weight=0.0, example_input=IMAGES[:1])
    before = [parameter.detach().clone() for parameter in (*model.parameters(), *agents.parameters())]
    log = train(model, agents, batches(), None, None, nn.CrossEntropyLoss(), 4, "cpu", False, False)
    after = [*model.parameters(), *agents.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert 0 < log["num_channels_dropped"] < 6
    with pytest.raises(UserError, match="loader is empty"):
        train(model, agents, [], None, None, nn.CrossEntropyLoss(), 4, "cpu")


def test_uncoupled_modules_sharing_an_agent_raise():
    model = create_model("resnet20")
    _, by_name, count, _ = attach_agents(model, [["conv1", "layer1.0.conv2"], "layer1.0.conv1"])
    assert count == 2 and by_name["conv1"] is by_name["layer1.0.conv2"]
    with pytest.raises(UserError, match="not coupled"):
        attach_agents(model, [["conv1", "layer1.0.conv1"]])
    with pytest.raises(UserError, match="nothing"):
        attach_agents(model, ["nothing"])
