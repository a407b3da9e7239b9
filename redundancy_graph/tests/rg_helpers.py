"""Networks and random selections for several test files."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.models import create_model
from common.testing import random_network

ARCHS = {
    "vgg16": ({}, 13),
    "resnet56": ({"shortcut": "conv3x3"}, 30),
    "resnet110": ({"shortcut": "conv3x3"}, 57),
    "densenet40": ({}, 39),
    "resnet50": ({}, 37),
}
CONVOLUTIONS = {"vgg16": 13, "resnet56": 57, "resnet110": 111, "densenet40": 39, "resnet50": 53}


def network(arch: str, seed: int = 0) -> nn.Module:
    """Create a network with random weights and batch-norm statistics, in eval mode, with shortcuts as in the original code."""
    return random_network(arch, seed, **(ARCHS[arch][0] if arch in ARCHS else {}))


def resnet20_of_two() -> nn.Module:
    """Create a ResNet-20 for two classes as a custom network."""
    return create_model("resnet20", num_classes=2)


def random_kept(groups: Sequence[ChannelGroup], seed: int = 0) -> dict[str, list[int]]:
    """Choose a random nonempty set of channels for every group."""
    random = np.random.default_rng(seed)
    sizes = {group.name: int(random.integers(1, group.size + 1)) for group in groups}
    return {g.name: sorted(random.permutation(g.size)[: sizes[g.name]].tolist()) for g in groups}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
