"""Small networks and pictures that several test files use."""

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from common.data import DataBundle, MemoryImages
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.space import Space, find_space


def pictures(count: int, seed: int = 0, size: int = 32) -> MemoryImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % 10)


def bundle(train: int = 80, test: int = 40) -> DataBundle:
    classes = [str(i) for i in range(10)]
    return DataBundle("random", pictures(train), pictures(test, 1), classes, (3, 32, 32), "0" * 16)


def pruning_net(arch: str = "resnet-small", seed: int = 0) -> PruningNet:
    """A PruningNet with random weights and random running statistics, in eval mode."""
    torch.manual_seed(seed)
    net = PruningNet(find_space(arch))
    for table in net.norms.values():
        nn.init.normal_(table.mean, std=0.2)
        nn.init.uniform_(table.var, 0.5, 1.5)
    return net.eval()


def small_space() -> Space:
    return find_space("resnet-small")


def write_pictures(root: Path, train: int = 40, test: int = 20, size: int = 16, classes: int = 2) -> Path:
    """ROOT/train and ROOT/test with class folders of small pictures; classes differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    for side, count in (("train", train), ("test", test)):
        for i in range(count):
            folder = root / side / f"class{i % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 100, (size, size, 3), generator=generator) + 100 * (i % classes)
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return root
