"""Rule of rewarded meta-pruning: MACs, linear biases, batch norm, ReLU and pooling.

1 per MAC, linear bias, batch-norm input element and ReLU-module input element, k^2 per pooling-module output.

ResNet-50: 4,111,714,280.
"""

from torch import nn

from common.cost.rules.factors import BATCH_NORMS, Factors, has_bias, window_size


def factors(module: nn.Module) -> Factors:
    """Return the factors of a module."""
    bias = has_bias(module) and isinstance(module, nn.Linear)
    return Factors(inputs=int(isinstance(module, (*BATCH_NORMS, nn.ReLU))), outputs=bias + window_size(module))
