"""Constructor arguments of registered networks: which there are, and their bounds.

Whoever names an architecture, a file included, passes these and no others: a constructor may download, allocate or take
hours for a value that its author never thought of.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Argument(Protocol):
    """The values that one argument may have."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as the end of a sentence that begins with the argument's name; None if nothing is."""

    def misfit(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        """The same for a valid value and the shapes of all tensors of a saved network."""


class _AnyShapes:
    def misfit(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        return None


@dataclass(frozen=True)
class Integer(_AnyShapes):
    """An integer within bounds. ``kept``: no pruning changes it, so a saved network has a tensor with this dimension."""

    least: int
    most: int
    kept: bool = False

    def problem(self, value: Any) -> str | None:
        if type(value) is not int or not self.least <= value <= self.most:
            return f"expects an integer from {self.least} to {self.most}"
        return None

    def misfit(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        if self.kept and not any(value in shape for shape in shapes):
            return f"is {value}, and no tensor has such a dimension"
        return None


@dataclass(frozen=True)
class Depth(Integer):
    """A number of layers; every layer has tensors, so a saved network has at least as many tensors."""

    def misfit(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        return f"is {value}, and there are {len(shapes)} tensors" if value > len(shapes) else None


@dataclass(frozen=True)
class Number(_AnyShapes):
    """A finite number within bounds."""

    least: float
    most: float

    def problem(self, value: Any) -> str | None:
        if type(value) not in (int, float) or not math.isfinite(value) or not self.least <= value <= self.most:
            return f"expects a number from {self.least:g} to {self.most:g}"
        return None


@dataclass(frozen=True)
class Choice(_AnyShapes):
    """One of a few texts or booleans."""

    values: tuple[str | bool, ...]

    def problem(self, value: Any) -> str | None:
        if not any(type(value) is type(known) and value == known for known in self.values):
            return f"expects one of {', '.join(map(str, self.values))}"
        return None


FLAG = Choice((True, False))


@dataclass(frozen=True)
class Layers:
    """A list with an entry for each layer: a width within bounds, or one of a few words for layers without tensors."""

    most: int
    width: Integer
    words: tuple[str, ...] = ()
    words_most: int = 0

    def problem(self, value: Any) -> str | None:
        expected = f"expects a list of 1 to {self.most} widths"
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= self.most:
            return expected
        widths = [entry for entry in value if entry not in self.words]
        if not widths or len(value) - len(widths) > self.words_most:
            return f"{expected} and at most {self.words_most} of {', '.join(self.words)}"
        return next((f"{reason} in its list" for entry in widths if (reason := self.width.problem(entry))), None)

    def misfit(self, value: Any, shapes: Collection[Sequence[int]]) -> str | None:
        widths = len(value) - sum(entry in self.words for entry in value)
        return f"has {widths} layers, and there are {len(shapes)} tensors" if widths > len(shapes) else None


NUM_CLASSES = Integer(1, 10**6, kept=True)
IN_CHANNELS = Integer(1, 10**4, kept=True)
WIDTH = Integer(1, 2**20)
PROBABILITY = Number(0.0, 1.0)
IMAGE_ARGUMENTS: dict[str, Argument] = {"num_classes": NUM_CLASSES, "in_channels": IN_CHANNELS}
VECTOR_ARGUMENTS: dict[str, Argument] = {"num_classes": NUM_CLASSES, "in_features": Integer(1, 10**8, kept=True)}


def invalid_argument(schema: Mapping[str, Argument], arguments: Mapping[str, Any]) -> str | None:
    """The first argument that ``schema`` does not permit, as a clause; None if there is none."""
    for name, value in arguments.items():
        if name not in schema:
            return f"it takes no argument {str(name)[:100]!r} (but {', '.join(schema)})"
        problem = schema[name].problem(value)
        if problem:
            return f"{name} {problem}, not {_short(value)}"
    return None


def misfitting_argument(
    schema: Mapping[str, Argument], arguments: Mapping[str, Any], shapes: Collection[Sequence[int]]
) -> str | None:
    """The first valid argument that does not belong to a network with tensors of these shapes, as a clause; else None."""
    for name, value in arguments.items():
        misfit = schema[name].misfit(value, shapes)
        if misfit:
            return f"{name} {misfit}"
    return None


def _short(value: Any) -> str:
    """A value for a message; what may be long is not printed."""
    if type(value) is int and abs(value) >= 10**18:
        return "an integer of many digits"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value[:100] if isinstance(value, str) else value)
