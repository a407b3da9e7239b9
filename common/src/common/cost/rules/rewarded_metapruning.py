"""The rule of rewarded meta-pruning: MACs, linear biases, 1 per batch-norm input element, 1 per ReLU-module input element,
k^2 per pooling-module output.

ResNet-50: 4,111,714,280.
"""

from torch import nn

from common.cost.rules.factors import BATCH_NORMS, Factors, has_bias, window


def factors(module: nn.Module) -> Factors:
    """Factors of a module by this rule."""
    bias = has_bias(module) and isinstance(module, nn.Linear)
    return Factors(inputs=int(isinstance(module, (*BATCH_NORMS, nn.ReLU))), outputs=bias + window(module))
