"""Rule of the library thop. Requires the extra ``thop``."""

import copy
from collections.abc import Sequence

from torch import nn

from common.cost.calls import zero_example
from common.errors import UserError


def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Return the MACs and an empty tuple. thop adds buffers to the network, so it runs on a copy."""
    try:
        from thop import profile
    except ImportError as error:
        raise UserError(
            "rule thop: the package thop is not installed; run pip install 'compression-papers-common[thop]'"
        ) from error
    example = zero_example(model, input_shape)
    macs, _ = profile(copy.deepcopy(model).eval(), inputs=(example,), verbose=False)
    return int(macs), ()
