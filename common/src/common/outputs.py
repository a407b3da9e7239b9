"""The class scores among a network's outputs, by one rule for evaluation, training and every method."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.errors import UserError


def first_output(outputs: Any) -> Tensor:
    """Return a network's output, or the first of several (a tuple, a list or a mapping). Raises UserError if it is no tensor."""
    found = outputs
    while isinstance(found, (tuple, list, Mapping)) and len(found):
        found = next(iter(found.values() if isinstance(found, Mapping) else found))
    if not isinstance(found, Tensor):
        raise UserError(
            f"the network's first output is of type {type(found).__name__}; return a tensor, alone or as the first output"
        )
    return found


def class_scores(outputs: Any) -> Tensor:
    """Return the class scores (N, classes) of a network's outputs.

    Of several outputs, as of a network with auxiliary heads, the first is used. The others are ignored, and the loss does
    not train them. Raises UserError for other outputs.
    """
    scores = first_output(outputs)
    if scores.dim() != 2:
        raise UserError(
            f"the outputs have shape {tuple(scores.shape)}; return class scores of shape (N, classes), alone or as the "
            "first output"
        )
    return scores
