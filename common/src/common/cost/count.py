"""MACs by any rule, and parameters, of a network."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.cost.rules import RULES
from common.errors import UserError


@dataclass(frozen=True)
class Cost:
    """macs: of one example, by the rule; params and nonzero_params: trainable numbers; uncounted: what is not in macs."""

    macs: int
    params: int
    nonzero_params: int
    uncounted: tuple[str, ...] = ()


def count_cost(model: nn.Module, input_shape: Sequence[int], rule: str = "conv_linear") -> Cost:
    """Count one example of shape ``input_shape`` (C, H, W) in eval mode; the network's mode is restored.

    rule: ``conv_linear`` (half of torch's FlopCounterMode), or a paper's: see :data:`common.cost.RULES`. Raises UserError
    for an unknown rule or an input that the network does not take.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    macs, uncounted = RULES[rule](model, tuple(input_shape))
    params = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    if uncounted:
        warnings.warn(f"MACs not counted: {', '.join(uncounted)}", stacklevel=2)
    return Cost(macs, params, nonzero, uncounted)
