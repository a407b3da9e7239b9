"""Small networks and images for several test files."""

from pathlib import Path

import torch
from torch import nn

from common import testing
from common.data import DataBundle
from common.testing import noise_bundle
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.space import SearchSpace, find_space


def bundle(train: int = 80, test: int = 40) -> DataBundle:
    return noise_bundle(train, test)


def pruning_net(arch: str = "resnet-small", seed: int = 0) -> PruningNet:
    """Create a PruningNet with random weights and random running statistics, in eval mode."""
    torch.manual_seed(seed)
    net = PruningNet(find_space(arch))
    for table in net.norms.values():
        nn.init.normal_(table.mean, std=0.2)
        nn.init.uniform_(table.var, 0.5, 1.5)
    return net.eval()


def small_space() -> SearchSpace:
    return find_space("resnet-small")


def write_image_folder(root: Path) -> Path:
    """Write 40 training and 20 test images of 16x16 pixels in two classes."""
    return testing.write_image_folder(root, train=20, test=10, size=16)
