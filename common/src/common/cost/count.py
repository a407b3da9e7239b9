"""Count the MACs of a network by any rule, and its parameters."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.cost.rules import RULES
from common.errors import UserError
from common.wrapped import plain_network


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        macs: Multiply-accumulates for one example, by the chosen rule.
        params: Number of trainable parameters.
        nonzero_params: Number of trainable parameters that are not zero.
        uncounted: Names of operations that multiply and accumulate but are not included in ``macs``.
    """

    macs: int
    params: int
    nonzero_params: int
    uncounted: tuple[str, ...] = ()


def _recorded(cost: object) -> Cost:
    if not isinstance(cost, Cost):
        raise UserError(
            "the ONNX file does not record its MACs and parameters; write it with compression-papers export"
        )
    return cost


def count_cost(model: nn.Module, input_shape: Sequence[int], rule: str = "conv_linear") -> Cost:
    """Count MACs and parameters for one example in eval mode, and restore the network's mode.

    For a network of an ONNX file, the cost is the one that the file records.

    Args:
        input_shape: Shape of one example without the batch dimension, e.g. (C, H, W).
        rule: ``conv_linear`` (half of torch's FlopCounterMode) or a paper's rule: see :data:`common.cost.RULES`.

    Raises:
        UserError: If the rule is unknown, the network does not accept the input shape, or an ONNX file records no cost.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}; known rules: {', '.join(RULES)}")
    model = plain_network(model)
    if hasattr(model, "recorded_cost"):  # of an ONNX file
        return _recorded(model.recorded_cost)
    macs, uncounted = RULES[rule](model, tuple(input_shape))
    params = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    if uncounted:
        warnings.warn(f"MACs not counted: {', '.join(uncounted)}", stacklevel=2)
    return Cost(macs, params, nonzero, uncounted)
