"""Small networks and pictures that several test files use."""

import torch
from torch import Tensor, nn

from common.cost import WidthCost
from common.data import MemoryImages, load_dataset
from common.testing import noise_bundle, random_network
from common.trained_model import TrainedModel
from decore import Agents


def small_net(classes: int = 10) -> nn.Module:
    """Two groups of channels, 6 and 12, with batch norm; a forward of 32x32 pictures takes no time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, classes),
    )


def without_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 10))


def digits(count: int) -> MemoryImages:
    return load_dataset("digits").train.subset(torch.arange(count))


def agents_and_cost(model: nn.Module, init: float = 2.0) -> tuple[Agents, WidthCost]:
    agents = Agents(model, torch.zeros(1, 3, 32, 32), init)
    return agents, WidthCost(model, (3, 32, 32), agents.groups)


def trained_resnet(train: int = 60, test: int = 20) -> TrainedModel:
    """A ResNet-20 with random weights on random pictures."""
    return TrainedModel("resnet20", random_network("resnet20"), noise_bundle(train, test))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([t.double().flatten() for t in module.state_dict().values()])
