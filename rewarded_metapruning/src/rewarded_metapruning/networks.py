"""Networks that the paper prunes, and a small variant of each for 32x32 images, at full width.

ResNet-50 is torchvision's (stride in the 3x3 convolution). MobileNetV2 is the paper's supernet, 1.375 times as wide as
standard MobileNetV2, and its first block has an expansion too. The base widths are literal tables.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from common.models import register
from common.models.arguments import IMAGE_ARGUMENTS
from common.models.mobilenet_v1 import BLOCKS, SeparableConv

if TYPE_CHECKING:
    from torchvision.models.resnet import Bottleneck

# (channels, stride): the stem, then the blocks
MOBILENET_V1 = ((32, 2), *BLOCKS)
MOBILENET_V1_SMALL = ((16, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))
# (channels, blocks, stride): the stem, then the stages
MOBILENET_V2 = ((44, 1, 2), (22, 1, 1), (33, 2, 2), (44, 3, 2), (88, 4, 2), (132, 3, 1), (224, 3, 2), (448, 1, 1))
MOBILENET_V2_SMALL = ((16, 1, 1), (8, 1, 1), (16, 2, 2), (32, 2, 2))
# (channels, blocks, stride): the stages after a stem of 16 channels
RESNET_SMALL = ((32, 1, 1), (64, 2, 2), (128, 1, 2))
EXPANSION = 6


def conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """Create a 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)


def pooling(size: int | None) -> nn.Module:
    """Create the final average pooling: a window of ``size`` pixels (counted by the paper's rule), or global if None."""
    return nn.AvgPool2d(size) if size else nn.AdaptiveAvgPool2d(1)


class ScaledMobileNetV1(nn.Module):
    """MobileNetV1 with any table of layers (arXiv 1704.04861). (N, in_channels, H, W) -> (N, num_classes).

    The pooling is a module, which the paper's rule counts; ``common.models.MobileNetV1`` pools by a function.

    Args:
        layers: (channels, stride) of the stem, then of each block.
        pool: Size of the pooling window; None: global average pooling.
    """

    def __init__(
        self, layers: tuple[tuple[int, int], ...], pool: int | None, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        (stem, stride), *blocks = layers
        self.conv = nn.Conv2d(in_channels, stem, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(stem)
        widths = [channels for channels, _ in layers]
        self.blocks = nn.Sequential(*(SeparableConv(b, c, s) for b, (c, s) in zip(widths, blocks, strict=False)))
        self.pool = pooling(pool)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.linear(self.pool(x).flatten(1))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 (arXiv 1801.04381). (N, C_in, H, W) -> (N, C, H / stride, W / stride).

    The input is added if the *base widths* of input and output are equal and the stride is 1, for all pruned widths.
    """

    def __init__(self, in_channels: int, middle: int, channels: int, stride: int) -> None:
        super().__init__()
        self.expand, self.norm1 = conv1x1(in_channels, middle), nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.project, self.norm3 = conv1x1(middle, channels), nn.BatchNorm2d(channels)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.norm1(self.expand(x)))
        out = F.relu6(self.norm2(self.depthwise(out)))
        out = self.norm3(self.project(out))
        return x + out if self.residual else out


class ScaledMobileNetV2(nn.Module):
    """MobileNetV2 with any table of stages: stem, inverted residuals, 1x1 head. (N, in_channels, H, W) -> (N, num_classes).

    Args:
        stages: (channels, blocks, stride) of the stem, then of each stage.
        head: Channels of the last 1x1 convolution.
        pool: Size of the pooling window; None: global average pooling.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, int, int], ...],
        head: int,
        pool: int | None,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        (stem, _, stride), *rest = stages
        self.conv = nn.Conv2d(in_channels, stem, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(stem)
        blocks: list[nn.Module] = []
        before, expansion = stem, 1
        for channels, count, first_stride in rest:
            for i in range(count):
                blocks.append(InvertedResidual(before, expansion * before, channels, first_stride if i == 0 else 1))
                before, expansion = channels, EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head, self.head_norm = conv1x1(before, head), nn.BatchNorm2d(head)
        self.pool = pooling(pool)
        self.linear = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.norm(self.conv(x))))
        x = F.relu6(self.head_norm(self.head(x)))
        return self.linear(self.pool(x).flatten(1))


class SmallResNet(nn.Module):
    """Bottleneck blocks after a 3x3 stem of stride 2, with torchvision's module names. (N, C, H, W) -> (N, classes)."""

    def __init__(
        self,
        stages: tuple[tuple[int, int, int], ...] = RESNET_SMALL,
        stem: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = stem
        for number, (channels, count, stride) in enumerate(stages, 1):
            blocks = []
            for i in range(count):
                blocks.append(bottleneck(before, channels, stride if i == 0 else 1, project=i == 0))
                before = channels
            layers[f"layer{number}"] = nn.Sequential(*blocks)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.fc = nn.Linear(before, num_classes)
        self.layers = tuple(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.layers:
            x = self.get_submodule(name)(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def bottleneck(in_channels: int, channels: int, stride: int, project: bool) -> "Bottleneck":
    """Create torchvision's bottleneck block; its inner width is a quarter of its output width."""
    from torchvision.models.resnet import Bottleneck  # importing it takes longer than importing torch

    shortcut = None
    if project:
        shortcut = nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    return Bottleneck(in_channels, channels // Bottleneck.expansion, stride, shortcut)


IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)
REGISTERED: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "mobilenetv1": (partial(ScaledMobileNetV1, MOBILENET_V1, 7), IMAGENET),
    "mobilenetv2": (partial(ScaledMobileNetV2, MOBILENET_V2, 1280, 7), IMAGENET),
    "resnet-small": (SmallResNet, CIFAR),
    "mobilenetv1-small": (partial(ScaledMobileNetV1, MOBILENET_V1_SMALL, None), CIFAR),
    "mobilenetv2-small": (partial(ScaledMobileNetV2, MOBILENET_V2_SMALL, 128, None), CIFAR),
}
for _name, (_build, _shape) in REGISTERED.items():
    register(_name, _build, _shape, IMAGE_ARGUMENTS)
