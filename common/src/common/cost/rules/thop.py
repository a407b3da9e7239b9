"""The number that the library thop prints. Needs the extra ``thop``."""

import copy
from collections.abc import Sequence

from torch import nn

from common.cost.calls import example_of_zeros
from common.errors import UserError


def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Return MACs, and no names of what is not counted. thop leaves buffers behind, so it gets a copy."""
    try:
        from thop import profile
    except ImportError as error:
        raise UserError("rule thop needs the package thop: pip install 'compression-papers-common[thop]'") from error
    example = example_of_zeros(model, input_shape)
    macs, _ = profile(copy.deepcopy(model).eval(), inputs=(example,), verbose=False)
    return int(macs), ()
