"""CIFAR ResNets with 6n+2 layers (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.shortcut import PadShortcut


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution with padding and without bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def make_shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build an identity, or if the shape changes, a ``pad`` (option A) or ``conv3x3`` shortcut (convolution, batch norm)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    layers = [("conv", conv3x3(in_channels, out_channels, stride)), ("norm", nn.BatchNorm2d(out_channels))]
    return nn.Sequential(OrderedDict(layers))


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn, plus the shortcut, relu. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = make_shortcut(shortcut, in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet with ``6 * blocks + 2`` layers of widths 16, 32, 64. (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, blocks: int, num_classes: int = 10, shortcut: str = "pad", in_channels: int = 3) -> None:
        super().__init__()
        if shortcut not in ("pad", "conv3x3"):
            raise ValueError(f"shortcut {shortcut!r}: expected 'pad' (option A) or 'conv3x3'")
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = make_stage(16, 16, blocks, 1, shortcut)
        self.layer2 = make_stage(16, 32, blocks, 2, shortcut)
        self.layer3 = make_stage(32, 64, blocks, 2, shortcut)
        self.linear = nn.Linear(64, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(x)


def make_stage(in_channels: int, channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    """Build a stage of ``blocks`` blocks, the first of which changes width and resolution."""
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))


def init_weights(model: nn.Module) -> None:
    """Initialize convolutions and linear layers as in He et al. 2015 (arXiv 1502.01852); batch norm is the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
