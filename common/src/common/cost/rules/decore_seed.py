"""Rule of DECORE's original code: MACs, 1 per biased convolution output and 2 per BatchNorm2d element.

VGG-16: 314,293,248.
"""

from torch import nn

from common.cost.calls import ANY_CONVOLUTION
from common.cost.rules.factors import Factors, has_bias


def factors(module: nn.Module) -> Factors:
    """Return the factors of a module."""
    bias = has_bias(module) and isinstance(module, ANY_CONVOLUTION)
    return Factors(outputs=bias + 2 * isinstance(module, nn.BatchNorm2d))
