"""The optimizer of a network trains its pruned network: options, schedules and the state of the kept channels."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from common.channels import channel_groups, keep_channels
from common.channels.mask import masked
from common.channels.remove import kept_entries
from common.errors import UserError
from common.optimizer import transfer_optimizer

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KEPT = {"0": [0, 2, 3, 7], "2": [1, 4, 5]}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    return nn.Sequential(*layers)


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(IMAGES).square().mean().backward()
        optimizer.step()


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {
        g.name: torch.zeros(g.size).index_fill(0, torch.tensor(KEPT[g.name]), 1.0)
        for g in channel_groups(model, IMAGES)
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: Adam(p, 0.01),
        lambda p: AdamW(p, 0.01, amsgrad=True),
    ],
    ids=["sgd", "adam", "amsgrad"],
)
def test_pruned_network_trains_as_masked_network(make: Callable) -> None:
    """Without batch norm and weight decay, the gradients of the kept channels are those of the masked network."""
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    small = keep_channels(model, IMAGES, KEPT)
    same = network()
    same.load_state_dict(model.state_dict())
    other = make(same.parameters())
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    assert transfer_optimizer(optimizer, model, small, KEPT, IMAGES[:1]) is optimizer
    train(small, optimizer, 3)
    with masked(same, channel_groups(same, IMAGES), masks(same)):
        train(same, other, 3)
    expected = dict(same.named_parameters())
    for name, entries in kept_entries(model, IMAGES[:1], KEPT).items():
        found = small.get_parameter(name)
        assert found.shape == entries.shape and len(optimizer.state[found]) > 0
        torch.testing.assert_close(found, expected[name].flatten()[entries])
    assert small[0].out_channels == 4 and small[5].in_features == 48


def test_groups_frozen_parameters_and_schedule_are_kept() -> None:
    model, head = network(), nn.Linear(4, 2)
    model[0].weight.requires_grad_(False)
    groups = [
        {"params": [model[0].weight, *model[2].parameters()], "lr": 0.1, "weight_decay": 0.01},
        {"params": [*model[5].parameters(), *head.parameters()]},
    ]
    optimizer = SGD(groups, lr=1.0, momentum=0.9)
    schedule = StepLR(optimizer, 1, gamma=0.5)
    train(model, optimizer, 1)
    small = keep_channels(model, IMAGES, KEPT)
    transfer_optimizer(optimizer, model, small, KEPT, IMAGES)
    first, second = optimizer.param_groups
    assert [p.shape[0] for p in first["params"]] == [4, 3, 3] and not small[0].weight.requires_grad
    assert second["params"][:1] == [small[5].weight] and second["params"][2:] == [head.weight, head.bias]
    assert small[0].bias not in {*first["params"], *second["params"]}  # as the unpruned network's
    schedule.step()
    assert (first["lr"], second["lr"], first["weight_decay"]) == (0.05, 0.5, 0.01)


def test_state_without_value_per_entry_starts_again() -> None:
    model = network()
    optimizer = Adafactor(model.parameters())
    train(model, optimizer, 1)
    small = keep_channels(model, IMAGES, KEPT)
    transfer_optimizer(optimizer, model, small, KEPT, IMAGES)
    assert small[0].weight not in optimizer.state and "variance" in optimizer.state[small[0].bias]
    train(small, optimizer, 1)


def test_parameters_of_pruned_network_alone_are_trained() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    wider = nn.Sequential(*network(), nn.Linear(4, 4))
    transfer_optimizer(optimizer, model, wider, {}, IMAGES)
    assert optimizer.param_groups[0]["params"] == list(wider.parameters())
    assert torch.equal(optimizer.state[wider[0].weight]["momentum_buffer"], model[0].weight.grad)


def test_optimizer_of_other_network_raises() -> None:
    model = network()
    with pytest.raises(UserError, match="no parameter of the unpruned network"):
        transfer_optimizer(SGD(network().parameters(), lr=0.1), model, model, {}, IMAGES)
