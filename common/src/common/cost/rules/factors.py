"""Rules defined by three factors per module: for a MAC, for an input element and for an output element."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from torch import nn

from common.cost.calls import LAYERS, trace_calls

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Factors(NamedTuple):
    """Weights of each MAC, each input element and each output element of a module."""

    macs: int = 1
    inputs: int = 0
    outputs: int = 0


def rule_from_factors(
    factors: Callable[[nn.Module], Factors],
) -> Callable[[nn.Module, Sequence[int]], tuple[int, tuple[str, ...]]]:
    """Build the rule that sums MACs and elements of all calls, multiplied by the module's factors."""

    def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, tuple[str, ...]]:
        total = 0
        for call in trace_calls(model, input_shape):
            of = factors(call.module)
            total += of.macs * call.macs + of.inputs * call.inputs + of.outputs * call.outputs
        return total, ()

    return count


def has_bias(module: nn.Module) -> bool:
    """Return whether a module is a convolution or linear layer with a bias."""
    return isinstance(module, LAYERS) and module.bias is not None


def window_size(module: nn.Module) -> int:
    """Return the number of elements k^2 in the window of a pooling module; 0 for any other module."""
    if not isinstance(module, POOLS):
        return 0
    size = module.kernel_size
    return size * size if isinstance(size, int) else prod(size)
