"""GoogLeNet for 32x32 images (Szegedy et al. 2015, arXiv 1409.4842), in the form that pruning papers use on CIFAR-10.

The stem is one 3x3 convolution, the 5x5 branch has two 3x3 convolutions, a batch norm follows every convolution, and there are
no auxiliary classifiers. With 10 classes it has 6,166,250 parameters (6,150,442 without batch norm) and 1,521,756,160 MACs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights

# Channels of the nine modules (table 1 of the paper): 1x1; reduction and 3x3; reduction and 5x5; projection after pooling.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
STEM = 192


class ConvNormRelu(nn.Module):
    """Convolution with bias, batch norm, ReLU. (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Inception(nn.Module):
    """Four parallel branches, concatenated. (N, C_in, H, W) -> (N, sum of the branches' channels, H, W)."""

    def __init__(
        self, in_channels: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvNormRelu(in_channels, one, 1)
        self.branch3 = nn.Sequential(ConvNormRelu(in_channels, reduce3, 1), ConvNormRelu(reduce3, three, 3))
        self.branch5 = nn.Sequential(
            ConvNormRelu(in_channels, reduce5, 1), ConvNormRelu(reduce5, five, 3), ConvNormRelu(five, five, 3)
        )
        self.pooled = ConvNormRelu(in_channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), pooled], dim=1)


class CifarGoogLeNet(nn.Module):
    """A stem and nine inception modules in three stages. (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNormRelu(in_channels, STEM, 3)
        width, stages = STEM, []
        for stage in STAGES:
            modules = []
            for one, reduce3, three, reduce5, five, pool in stage:
                modules.append(Inception(width, one, reduce3, three, reduce5, five, pool))
                width = one + three + five + pool
            stages.append(nn.Sequential(*modules))
        self.stage3, self.stage4, self.stage5 = stages
        self.linear = nn.Linear(width, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stem(x))
        x = self.stage4(F.max_pool2d(x, 3, stride=2, padding=1))
        x = self.stage5(F.max_pool2d(x, 3, stride=2, padding=1))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
