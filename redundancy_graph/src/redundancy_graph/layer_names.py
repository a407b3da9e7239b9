"""Layer names of the original code and of this repository, for prune-info files and ``<arch>-weights.pth``."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")
Pairs = tuple[tuple[str, str], ...]

_RESNET: Pairs = (
    ("conv1", "conv"),
    ("bn1", "bn"),
    ("layer#.#.shortcut.conv", "layer#.#.downsample.0"),
    ("layer#.#.shortcut.norm", "layer#.#.downsample.1"),
    ("linear", "fc"),
)
_DENSENET: Pairs = (
    ("conv1", "conv"),
    ("block#.#.norm", "dense#.#.bn"),
    ("block#.#.conv", "dense#.#.conv"),
    ("transition#.norm", "trans#.bn"),
    ("transition#.conv", "trans#.conv"),
    ("norm", "bn"),
    ("linear", "fc"),
)
# (name here, name in the original code), where # is a number; other modules have the same name in both.
LAYERS: dict[str, Pairs] = {
    "vgg16": (),
    "resnet20": _RESNET,
    "resnet32": _RESNET,
    "resnet44": _RESNET,
    "resnet56": _RESNET,
    "resnet110": _RESNET,
    "densenet40": _DENSENET,
    "resnet50": (),
}
# Short names that are also accepted in files.
_ALIASES: dict[str, Pairs] = {"vgg16": tuple((f"classifier.{name}", name) for name in ("linear1", "norm", "linear2"))}


def to_original(arch: str | None, layer: str) -> str:
    """Return the original code's name of a module."""
    return _translate(layer, list(LAYERS.get(arch or "", ())))


def from_original(arch: str | None, layer: str) -> str:
    """Return the name here of a module of the original code; names of this repository are returned unchanged."""
    pairs = (*LAYERS.get(arch or "", ()), *_ALIASES.get(arch or "", ()))
    return _translate(layer, [(original, name) for name, original in pairs])


def tensors_to_original(arch: str | None, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the tensors of a state dict to the names of the original code."""
    return {_rename(name, arch, to_original): tensor for name, tensor in tensors.items()}


def tensors_from_original(arch: str | None, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the tensors of a state dict, with either names, to the names of this repository."""
    return {_rename(name, arch, from_original): tensor for name, tensor in tensors.items()}


def has_original_names(arch: str | None, tensors: Iterable[str]) -> bool:
    """Return whether a state dict has the tensor names of the original code (for VGG they are the same here)."""
    return arch in ("vgg16",) or any(_rename(name, arch, from_original) != name for name in tensors)


def _rename(tensor: str, arch: str | None, translate) -> str:
    module, _, leaf = tensor.rpartition(".")
    return f"{translate(arch, module)}.{leaf}"


def _translate(layer: str, pairs: list[tuple[str, str]]) -> str:
    for before, after in pairs:
        match = re.fullmatch(re.escape(before).replace(r"\#", r"(\d+)"), layer)
        if match:
            for number in match.groups():
                after = after.replace("#", number, 1)
            return after
    return layer
