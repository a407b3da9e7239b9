"""Valid constructor arguments of registered networks.

Other arguments are rejected, also those recorded in a file: for an unexpected value, a constructor might download,
allocate gigabytes or run for hours.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Argument(Protocol):
    """Valid values of one argument."""

    def validate(self, value: Any) -> str | None:
        """Return why a value is invalid, to follow the argument's name in a message, or None."""

    def validate_shapes(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        """Return why a valid value does not belong to a saved network with tensors of these shapes, or None."""


class _AnyShapes:
    def validate_shapes(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        return None


@dataclass(frozen=True)
class Integer(_AnyShapes):
    """Integer within bounds. ``kept``: not changed by pruning, so a saved network has a tensor with this dimension."""

    minimum: int
    maximum: int
    kept: bool = False

    def validate(self, value: Any) -> str | None:
        if type(value) is not int or not self.minimum <= value <= self.maximum:
            return f"expects an integer from {self.minimum} to {self.maximum}"
        return None

    def validate_shapes(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        if self.kept and not any(value in shape for shape in shapes):
            return f"is {value}, and no tensor has such a dimension"
        return None


@dataclass(frozen=True)
class Depth(Integer):
    """Number of layers; every layer has tensors, so a saved network has at least this number of tensors."""

    def validate_shapes(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        return f"is {value}, and there are {len(shapes)} tensors" if value > len(shapes) else None


@dataclass(frozen=True)
class Number(_AnyShapes):
    """Finite number within bounds."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> str | None:
        if type(value) not in (int, float) or not math.isfinite(value) or not self.minimum <= value <= self.maximum:
            return f"expects a number from {self.minimum:g} to {self.maximum:g}"
        return None


@dataclass(frozen=True)
class Choice(_AnyShapes):
    """One of several strings or booleans."""

    values: tuple[str | bool, ...]

    def validate(self, value: Any) -> str | None:
        if not any(type(value) is type(known) and value == known for known in self.values):
            return f"expects one of {', '.join(map(str, self.values))}"
        return None


FLAG = Choice((True, False))


@dataclass(frozen=True)
class Layers:
    """List with an entry per layer: a width within bounds, or a marker for a layer without tensors, such as "pool"."""

    max_length: int
    width: Integer
    markers: tuple[str, ...] = ()
    max_markers: int = 0

    def validate(self, value: Any) -> str | None:
        expected = f"expects a list of 1 to {self.max_length} widths"
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= self.max_length:
            return expected
        widths = [entry for entry in value if entry not in self.markers]
        if not widths or len(value) - len(widths) > self.max_markers:
            return f"{expected} and at most {self.max_markers} of {', '.join(self.markers)}"
        return next((f"{reason} in its list" for entry in widths if (reason := self.width.validate(entry))), None)

    def validate_shapes(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        widths = len(value) - sum(entry in self.markers for entry in value)
        return f"has {widths} layers, and there are {len(shapes)} tensors" if widths > len(shapes) else None


NUM_CLASSES = Integer(1, 10**6, kept=True)
IN_CHANNELS = Integer(1, 10**4, kept=True)
WIDTH = Integer(1, 2**20)
PROBABILITY = Number(0.0, 1.0)
IMAGE_ARGUMENTS: dict[str, Argument] = {"num_classes": NUM_CLASSES, "in_channels": IN_CHANNELS}
VECTOR_ARGUMENTS: dict[str, Argument] = {"num_classes": NUM_CLASSES, "in_features": Integer(1, 10**8, kept=True)}


def validate_arguments(schema: Mapping[str, Argument], arguments: Mapping[str, Any]) -> str | None:
    """Return a message on the first argument that ``schema`` does not permit, or None."""
    for name, value in arguments.items():
        if name not in schema:
            return f"unknown argument {str(name)[:100]!r}; known: {', '.join(schema)}"
        problem = schema[name].validate(value)
        if problem:
            return f"{name} {problem}, not {_short(value)}"
    return None


def validate_argument_shapes(
    schema: Mapping[str, Argument], arguments: Mapping[str, Any], shapes: Collection[Sequence[int]]
) -> str | None:
    """Return a message on the first argument that contradicts the shapes of a network's tensors, or None."""
    for name, value in arguments.items():
        problem = schema[name].validate_shapes(value, shapes)
        if problem:
            return f"{name} {problem}"
    return None


def _short(value: Any) -> str:
    """Format a value for a message, shortened."""
    if type(value) is int and abs(value) >= 10**18:
        return "an integer of many digits"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value[:100] if isinstance(value, str) else value)
