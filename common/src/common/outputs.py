"""The class scores among a network's outputs, by one rule for evaluation, training and every method."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
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


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return all tensors of a network's outputs by name, in their order.

    Tuples, lists, mappings and dataclasses may be nested. A name consists of keys, fields and numbers, as in ``"boxes.0"``; it is
    empty for a single tensor. None is left out. Raises UserError for other values.
    """
    return {".".join(path): tensor for path, tensor in _leaves(outputs, ())}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif value is not None:
        for name, part in _parts(value, path):
            yield from _leaves(part, (*path, str(name)))


def _parts(value: Any, path: tuple[str, ...]) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    place = f"output {'.'.join(path)!r} of the network" if path else "the network's output"
    raise UserError(
        f"{place} is of type {type(value).__name__}; return tensors, alone or in lists, tuples or dictionaries"
    )
