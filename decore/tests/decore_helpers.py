"""Small networks and images for several test files."""

import torch
from torch import Tensor, nn

from common.cost import WidthCost
from common.data import MemoryImages, load_dataset
from common.testing import noise_bundle, random_network
from common.trained_model import TrainedModel
from decore import Agents


def small_net(classes: int = 10) -> nn.Module:
    """Build a network with two channel groups (6 and 12) and batch norm, fast on 32x32 images."""
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
    """Create a ResNet-20 with random weights and random images."""
    return TrainedModel("resnet20", random_network("resnet20"), noise_bundle(train, test))


def flatten_state(module: nn.Module) -> Tensor:
    return torch.cat([t.double().flatten() for t in module.state_dict().values()])
