"""TensorFlow's padding "SAME": asymmetric where the stride is larger than 1, and dependent on the size of the image.

torch pads both sides alike, so that a 3x3 convolution of stride 2 reads an image of even size one pixel further up and to the left.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SamePad2d(nn.Module):
    """Pad (N, C, H, W) with zeros for a layer of this kernel size and stride, whose output has ceil(H / stride) rows.

    An odd number of rows or columns is padded with one more at the bottom or at the right.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (same_padding(size, self.kernel_size, self.stride) for size in x.shape[2:])
        return F.pad(x, (*columns, *rows))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return the number of rows of zeros before and after an image of ``size`` rows."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2
