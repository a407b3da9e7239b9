"""Rules that count each module by three numbers: for a MAC, for an element of its input, for an element of its output."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from torch import nn

from common.cost.calls import LAYERS, trace_calls

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Factors(NamedTuple):
    """Number that each MAC, each element of the input and each element of the output of a module counts."""

    macs: int = 1
    inputs: int = 0
    outputs: int = 0


def count_by(
    factors: Callable[[nn.Module], Factors],
) -> Callable[[nn.Module, Sequence[int]], tuple[int, tuple[str, ...]]]:
    """Make the rule that multiplies MACs and elements of every call by the module's factors, and sums."""

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


def window(module: nn.Module) -> int:
    """Number of elements k^2 in the window of a pooling module; 0 for any other module."""
    if not isinstance(module, POOLS):
        return 0
    size = module.kernel_size
    return size * size if isinstance(size, int) else prod(size)
