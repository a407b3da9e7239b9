"""DenseNet-40 for 32x32 images: growth rate 12, no bottleneck, no compression (Huang et al. 2017, arXiv 1608.06993)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights


class NormReluConv(nn.Module):
    """Pre-activation unit of DenseNet: batch norm, relu, convolution. (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)))


class CifarDenseNet(nn.Module):
    """Three dense blocks of ``layers`` units each. (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, layers: int = 12, growth: int = 12, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.block1 = make_block(width, layers, growth)
        width += layers * growth
        self.transition1 = NormReluConv(width, width, 1)
        self.block2 = make_block(width, layers, growth)
        width += layers * growth
        self.transition2 = NormReluConv(width, width, 1)
        self.block3 = make_block(width, layers, growth)
        width += layers * growth
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = run_block(self.block1, self.conv1(x))
        x = run_block(self.block2, F.avg_pool2d(self.transition1(x), 2))
        x = run_block(self.block3, F.avg_pool2d(self.transition2(x), 2))
        x = F.adaptive_avg_pool2d(F.relu(self.norm(x)), 1)
        return self.linear(x.flatten(1))


def make_block(in_channels: int, layers: int, growth: int) -> nn.ModuleList:
    """Build a dense block of ``layers`` units with ``growth`` output channels each."""
    return nn.ModuleList(NormReluConv(in_channels + i * growth, growth, 3) for i in range(layers))


def run_block(block: nn.ModuleList, x: Tensor) -> Tensor:
    """Run a dense block: each unit reads all previous feature maps and its output is appended to them."""
    for unit in block:
        x = torch.cat([x, unit(x)], dim=1)
    return x
