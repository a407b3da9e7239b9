"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation, with ReLU6.

https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights
from common.models.same_padding import SamePad2d

# (number of blocks, channels, expansion, kernel size, stride of the first block) of the 7 stages
STAGES = (
    (1, 16, 1, 3, 1),
    (2, 24, 6, 3, 2),
    (2, 40, 6, 5, 2),
    (3, 80, 6, 3, 2),
    (3, 112, 6, 5, 1),
    (4, 192, 6, 5, 2),
    (1, 320, 6, 3, 1),
)
STEM, HEAD = 32, 1280  # channels
EPSILON = 1e-3  # TensorFlow's, of batch norm


class ConvNorm(nn.Module):
    """TensorFlow's padding, convolution, batch norm and, if ``relu6``, ReLU6. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__()
        self.pad = SamePad2d(kernel_size, stride) if stride > 1 else nn.Identity()
        padding = 0 if stride > 1 else kernel_size // 2
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=EPSILON)
        self.relu6 = relu6

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.pad(x)))
        return F.relu6(x) if self.relu6 else x


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise convolution, projection 1x1; the input is added if it has the shape of the output."""

    def __init__(self, in_channels: int, channels: int, expansion: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel_size, stride, groups=hidden)
        self.project = ConvNorm(hidden, channels, relu6=False)
        self.adds_input = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds_input else out


class EfficientNetLite0(nn.Module):
    """Stem, 16 inverted residuals, head of 1,280 channels. (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = ConvNorm(in_channels, STEM, 3, 2)
        blocks: list[nn.Module] = []
        before = STEM
        for count, channels, expansion, kernel_size, stride in STAGES:
            for number in range(count):
                blocks.append(InvertedResidual(before, channels, expansion, kernel_size, 1 if number else stride))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(before, HEAD)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(HEAD, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.linear(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
