"""MobileNetV1: depthwise separable convolutions (Howard et al. 2017, arXiv 1704.04861, table 1)."""

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights
from common.models.same_padding import SamePad2d

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
STEM = 32  # channels


class SeparableConv(nn.Module):
    """Depthwise 3x3, BN, relu, pointwise 1x1, BN, relu. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, tensorflow: bool = False, batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.pad = _pad(stride, tensorflow)
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            stride=stride,
            padding=_padding(self.pad),
            groups=in_channels,
            bias=not batch_norm,
        )
        self.norm1 = _norm(in_channels, tensorflow, batch_norm)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=not batch_norm)
        self.norm2 = _norm(channels, tensorflow, batch_norm)
        self.relu = F.relu6 if tensorflow else F.relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.depthwise(self.pad(x))))
        return self.relu(self.norm2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """Stem of 32 channels and 13 separable blocks. (N, in_channels, H, W) -> (N, num_classes).

    width_mult: factor of all widths, such as 0.25. tensorflow: pad as TensorFlow does where the stride is 2, with its ReLU6 and its
    epsilon, 1e-3. batch_norm: otherwise convolutions have biases, as in a network whose batch norm has been folded into them.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width_mult: float = 1.0,
        tensorflow: bool = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [max(1, int(width_mult * width)) for width in (STEM, *(channels for channels, _ in BLOCKS))]
        self.pad = _pad(2, tensorflow)
        self.conv = nn.Conv2d(in_channels, widths[0], 3, stride=2, padding=_padding(self.pad), bias=not batch_norm)
        self.norm = _norm(widths[0], tensorflow, batch_norm)
        self.relu = F.relu6 if tensorflow else F.relu
        self.blocks = nn.Sequential(
            *(
                SeparableConv(before, channels, stride, tensorflow, batch_norm)
                for before, channels, (_, stride) in zip(widths, widths[1:], BLOCKS, strict=False)
            )
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.norm(self.conv(self.pad(x)))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _pad(stride: int, tensorflow: bool) -> nn.Module:
    return SamePad2d(3, stride) if tensorflow and stride > 1 else nn.Identity()


def _padding(pad: nn.Module) -> int:
    """Return the padding of a 3x3 convolution that follows a module that pads, or does not."""
    return 0 if isinstance(pad, SamePad2d) else 1


def _norm(channels: int, tensorflow: bool, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3 if tensorflow else 1e-5) if batch_norm else nn.Identity()
