"""Small networks and pictures that several test files use."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.cost import WidthCost
from common.data import DataBundle, MemoryImages, load_dataset
from common.models import create_model
from common.trained import Trained
from decore import Agents


def network(arch: str, seed: int = 0, **arguments) -> nn.Module:
    """A network with random weights and random batch-norm statistics, in eval mode."""
    torch.manual_seed(seed)
    model = create_model(arch, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def small_net(classes: int = 10) -> nn.Module:
    """Two groups of channels, 6 and 12, with batch norm; a forward of 32x32 pictures takes no time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes),
    )  # fmt: skip


def without_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 10))


def digits(count: int) -> MemoryImages:
    return load_dataset("digits").train.subset(torch.arange(count))


def agents_and_cost(model: nn.Module, init: float = 2.0) -> tuple[Agents, WidthCost]:
    agents = Agents(model, torch.zeros(1, 3, 32, 32), init)
    return agents, WidthCost(model, (3, 32, 32), agents.groups)


def trained_resnet(train: int = 60, test: int = 20) -> Trained:
    """A ResNet-20 with random weights on random pictures."""
    bundle = DataBundle("noise", noise(train), noise(test, seed=1), [str(i) for i in range(10)], (3, 32, 32), "0" * 16)
    return Trained(network("resnet20"), bundle, "resnet20")


def noise(count: int, seed: int = 0, classes: int = 10) -> MemoryImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % classes)


def write_pictures(root: Path, classes: int = 2, train: int = 10, test: int = 5, size: int = 32) -> Path:
    """root/train/CLASS/*.png and root/test/CLASS/*.png: noise around a grey of the class."""
    random = np.random.default_rng(0)
    for side, count in (("train", train), ("test", test)):
        for c in range(classes):
            folder = root / side / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (size, size, 3)) + 150 * c // max(1, classes - 1)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def flat(module: nn.Module) -> Tensor:
    return torch.cat([t.double().flatten() for t in module.state_dict().values()])
