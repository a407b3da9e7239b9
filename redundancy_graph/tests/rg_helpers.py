"""Small networks and pictures that several test files use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.data import DataBundle, MemoryImages
from common.models import create_model

ARCHS = {
    "vgg16": ({}, 13),
    "resnet56": ({"shortcut": "conv3x3"}, 30),
    "resnet110": ({"shortcut": "conv3x3"}, 57),
    "densenet40": ({}, 39),
    "resnet50": ({}, 37),
}
CONVOLUTIONS = {"vgg16": 13, "resnet56": 57, "resnet110": 111, "densenet40": 39, "resnet50": 53}


def network(arch: str, seed: int = 0) -> nn.Module:
    """A network with random weights and random batch-norm statistics, in eval mode."""
    torch.manual_seed(seed)
    model = create_model(arch, **ARCHS[arch][0]) if arch in ARCHS else create_model(arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def random_pictures(count: int, seed: int = 0, size: int = 32, classes: int = 10) -> MemoryImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % classes)


def bundle(name: str = "cifar10", train: int = 12, test: int = 6) -> DataBundle:
    classes = [str(i) for i in range(10)]
    return DataBundle(name, random_pictures(train), random_pictures(test, seed=1), classes, (3, 32, 32), "0" * 16)


def random_kept(groups: Sequence[ChannelGroup], seed: int = 0) -> dict[str, list[int]]:
    """For every group a random set of one to all of its channels."""
    random = np.random.default_rng(seed)
    sizes = {group.name: int(random.integers(1, group.size + 1)) for group in groups}
    return {g.name: sorted(random.permutation(g.size)[: sizes[g.name]].tolist()) for g in groups}


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


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
