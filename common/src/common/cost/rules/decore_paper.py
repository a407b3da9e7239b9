"""Rule of the DECORE paper: convolutions with one addition per output element, and linear layers but the last.

VGG-16: 313,735,168.
"""

from collections.abc import Sequence

from torch import nn

from common.cost.calls import ANY_CONVOLUTION, trace_calls


def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Return the MACs and an empty tuple."""
    calls = trace_calls(model, input_shape)
    linear = [call.macs for call in calls if isinstance(call.module, nn.Linear)]
    convolutions = sum(call.macs + call.outputs for call in calls if isinstance(call.module, ANY_CONVOLUTION))
    return convolutions + sum(linear[:-1]), ()
