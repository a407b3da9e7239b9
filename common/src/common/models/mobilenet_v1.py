"""MobileNetV1: depthwise separable convolutions (Howard et al. 2017, arXiv 1704.04861, table 1)."""

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights

# (channels, stride) of the 13 blocks
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class SeparableConv(nn.Module):
    """Depthwise 3x3, BN, relu, pointwise 1x1, BN, relu. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
        )
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.depthwise(x)))
        return F.relu(self.norm2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """Stem of 32 channels and 13 separable blocks. (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        widths = [32, *(channels for channels, _ in BLOCKS)]
        self.blocks = nn.Sequential(
            *(SeparableConv(before, *block) for before, block in zip(widths, BLOCKS, strict=False))
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
