"""Rule of the interpolative-decomposition paper: MACs, biases, batch norm, ReLU and pooling.

2 per MAC, 1 per biased output, 2 per BatchNorm2d element, 1 per ReLU-module element, k^2 per pooling-module output.

VGG-16 without convolution biases: 627,880,970.
"""

from torch import nn

from common.cost.rules.factors import Factors, has_bias, window_size


def factors(module: nn.Module) -> Factors:
    """Return the factors of a module."""
    elementwise = 2 * isinstance(module, nn.BatchNorm2d) + isinstance(module, nn.ReLU)
    return Factors(macs=2, outputs=has_bias(module) + elementwise + window_size(module))
