"""The rule of interpolative decomposition: 2 per MAC, 1 per biased output, 2 per BatchNorm2d element, 1 per ReLU-module
element, k^2 per pooling-module output.

VGG-16 without biases of convolutions: 627,880,970.
"""

from torch import nn

from common.cost.rules.factors import Factors, has_bias, window


def factors(module: nn.Module) -> Factors:
    """Factors of a module by this rule."""
    elementwise = 2 * isinstance(module, nn.BatchNorm2d) + isinstance(module, nn.ReLU)
    return Factors(macs=2, outputs=has_bias(module) + elementwise + window(module))
