"""The authors' layer names and ours: one table, both ways, for prune-info files and ``<arch>-weights.pth``."""

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
# (our module, the authors'), where # is a number; modules that are not listed have the same name on both sides.
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
# Short forms that are read as well.
_ALIASES: dict[str, Pairs] = {"vgg16": tuple((f"classifier.{name}", name) for name in ("linear1", "norm", "linear2"))}


def to_authors(arch: str | None, layer: str) -> str:
    """The authors' name of one of our modules."""
    return _translate(layer, [(ours, theirs) for ours, theirs in LAYERS.get(arch or "", ())])


def to_ours(arch: str | None, layer: str) -> str:
    """Our name of one of the authors' modules; a name of ours stays as it is."""
    pairs = (*LAYERS.get(arch or "", ()), *_ALIASES.get(arch or "", ()))
    return _translate(layer, [(theirs, ours) for ours, theirs in pairs])


def tensors_to_authors(arch: str | None, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under the authors' names."""
    return {_rename(name, arch, to_authors): tensor for name, tensor in tensors.items()}


def tensors_to_ours(arch: str | None, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under our names, from either."""
    return {_rename(name, arch, to_ours): tensor for name, tensor in tensors.items()}


def written_by_authors(arch: str | None, tensors: Iterable[str]) -> bool:
    """Whether a state dict has the authors' tensor names (for VGG they are ours too)."""
    return arch in ("vgg16",) or any(_rename(name, arch, to_ours) != name for name in tensors)


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
