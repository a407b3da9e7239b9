"""The networks that the project knows by name: a literal registry."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.models.arguments import (
    FLAG,
    IMAGE_ARGUMENTS,
    NUM_CLASSES,
    PROBABILITY,
    VECTOR_ARGUMENTS,
    WIDTH,
    Argument,
    Choice,
    Depth,
    Integer,
    Layers,
    Number,
    invalid_argument,
    misfitting_argument,
)
from common.models.densenet_cifar import CifarDenseNet
from common.models.fc import OneHiddenLayer
from common.models.lenet import LeNet5, LeNet300100
from common.models.mobilenet_v1 import MobileNetV1
from common.models.resnet_cifar import CifarResNet
from common.models.shortcut import PadShortcut
from common.models.vgg_cifar import POOL, CifarVGG

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "PadShortcut",
    "arguments_for",
    "checked_arguments",
    "create_meta_model",
    "create_model",
    "input_shape",
    "is_known",
    "register",
]

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
GROUP = "compression_papers.architectures"  # entry points: modules of installed packages that register networks


@dataclass(frozen=True)
class Architecture:
    """How to build a network and the shape (C, H, W) of the pictures that it was made for.

    meta: it can be built on torch's meta device, without memory for its weights; nobody knows that of a user's own.
    arguments: all that ``build`` may be called with, and the values that they may have. misfit: (arguments, shapes of a
    file's tensors) -> what shows that the file is of another network, or None; where building costs memory.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    meta: bool = True
    arguments: Mapping[str, Argument] = field(default_factory=lambda: {"num_classes": Integer(1, 10**6)})
    misfit: Callable[[Mapping[str, Any], Collection[Sequence[int]]], str | None] | None = None


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    """One of torchvision's networks; importing it takes longer than importing torch."""
    import torchvision

    return getattr(torchvision.models, name)(**arguments)


RESNET: dict[str, Argument] = {**IMAGE_ARGUMENTS, "shortcut": Choice(("pad", "conv3x3"))}
VGG: dict[str, Argument] = {
    **IMAGE_ARGUMENTS,
    "config": Layers(200, WIDTH, words=(POOL,), words_most=5),
    "conv_bias": FLAG,
    "hidden": WIDTH,
}

ARCHITECTURES: dict[str, Architecture] = {
    "vgg16": Architecture(CifarVGG, CIFAR, arguments=VGG),
    "resnet20": Architecture(partial(CifarResNet, 3), CIFAR, arguments=RESNET),
    "resnet32": Architecture(partial(CifarResNet, 5), CIFAR, arguments=RESNET),
    "resnet44": Architecture(partial(CifarResNet, 7), CIFAR, arguments=RESNET),
    "resnet56": Architecture(partial(CifarResNet, 9), CIFAR, arguments=RESNET),
    "resnet110": Architecture(partial(CifarResNet, 18), CIFAR, arguments=RESNET),
    "densenet40": Architecture(
        CifarDenseNet, CIFAR, arguments={**IMAGE_ARGUMENTS, "layers": Depth(1, 1000), "growth": Integer(1, 1000)}
    ),
    "resnet50": Architecture(
        partial(_torchvision, "resnet50"),
        IMAGENET,
        arguments={
            "num_classes": NUM_CLASSES,
            "groups": Integer(1, 1024),
            "width_per_group": Integer(1, 4096),
            "zero_init_residual": FLAG,
        },
    ),
    "mobilenet_v1": Architecture(MobileNetV1, IMAGENET, arguments=IMAGE_ARGUMENTS),
    "mobilenet_v2": Architecture(
        partial(_torchvision, "mobilenet_v2"),
        IMAGENET,
        arguments={
            "num_classes": NUM_CLASSES,
            "width_mult": Number(0.01, 16),
            "round_nearest": Integer(1, 64),
            "dropout": PROBABILITY,
        },
    ),
    "vgg16_imagenet": Architecture(
        partial(_torchvision, "vgg16"),
        IMAGENET,
        arguments={"num_classes": NUM_CLASSES, "dropout": PROBABILITY, "init_weights": FLAG},
    ),
    "lenet300_100": Architecture(LeNet300100, (1, 28, 28), arguments=VECTOR_ARGUMENTS),
    "lenet5": Architecture(LeNet5, (1, 28, 28), arguments={**IMAGE_ARGUMENTS, "image_size": Integer(1, 2**14)}),
    "fc4096": Architecture(OneHiddenLayer, (1, 28, 28), arguments={**VECTOR_ARGUMENTS, "hidden": WIDTH}),
}


def create_model(arch: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Build a network by name; ``model.architecture`` records name and arguments, which a checkpoint needs.

    Raises UserError for an unknown name (listing the known ones), an argument that the network does not take, or a value
    out of its bounds.
    """
    entry = find_architecture(arch)
    arguments = {"num_classes": num_classes, **kwargs}
    problem = invalid_argument(entry.arguments, arguments)
    if problem:
        raise UserError(f"{arch} cannot be built: {problem}")
    try:
        model = entry.build(**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{arch} cannot be built with {arguments}: {error}") from error
    model.architecture = {"arch": arch, "args": arguments}  # type: ignore[assignment]
    return model


def checked_arguments(arch: str, arguments: Any, shapes: Collection[Sequence[int]]) -> dict[str, Any]:
    """The arguments that a file records for a registered network whose tensors have these shapes, checked before it is built.

    Raises UserError for what :func:`create_model` would not take, and for a network that is larger than the tensors say.
    """
    entry = find_architecture(arch)
    if not isinstance(arguments, dict):
        raise UserError(f"the arguments of its {arch} are not a table of names and values")
    problem = invalid_argument(entry.arguments, arguments) or misfitting_argument(entry.arguments, arguments, shapes)
    if problem is None and entry.misfit is not None:
        problem = entry.misfit(arguments, shapes)
    if problem:
        raise UserError(f"the arguments of its {arch} are not acceptable: {problem}")
    return arguments


def create_meta_model(arch: str, **arguments: Any) -> nn.Module:
    """:func:`create_model` without memory for the weights, on torch's meta device; a user's own network is built as it is."""
    with torch.device("meta") if find_architecture(arch).meta else nullcontext():
        return create_model(arch, **arguments)


def arguments_for(arch: str, shape: Sequence[int]) -> dict[str, int]:
    """The constructor arguments with which a registered network reads pictures of shape (C, H, W); {} by default."""
    entry = find_architecture(arch)
    takes = inspect.signature(entry.build).parameters
    channels, height, width = shape
    wanted = {"in_features": channels * height * width, "in_channels": channels, "image_size": height}
    return {name: value for name, value in wanted.items() if name in takes and takes[name].default != value}


def find_architecture(arch: str) -> Architecture:
    """The registry's entry; raises UserError that lists the known names."""
    if not is_known(arch):
        raise UserError(f"unknown architecture {arch!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def is_known(arch: str) -> bool:
    """Whether a name is in the registry, those of every installed package included."""
    if arch not in ARCHITECTURES:
        _import_registering_packages()
    return arch in ARCHITECTURES


@cache
def _import_registering_packages() -> None:
    for point in entry_points(group=GROUP):
        point.load()


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that a network made by :func:`create_model` reads, its arguments considered."""
    record = getattr(model, "architecture", None)
    if record is None:
        raise UserError("this network was not made by create_model: say which input shape it reads")
    channels, height, width = find_architecture(record["arch"]).input_shape
    arguments = record["args"]
    if "in_features" in arguments:
        return (arguments["in_features"], 1, 1)
    channels, size = arguments.get("in_channels", channels), arguments.get("image_size")
    return (channels, size, size) if size else (channels, height, width)


def register(
    name: str,
    build: Callable[..., nn.Module],
    input_shape: tuple[int, int, int],
    arguments: Mapping[str, Argument] | None = None,
    misfit: Callable[[Mapping[str, Any], Collection[Sequence[int]]], str | None] | None = None,
) -> None:
    """Add a network of another package (called where that package is imported); a name is taken only once.

    arguments, misfit: as in :class:`Architecture`; ``num_classes`` alone if not given.
    """
    if name in ARCHITECTURES and ARCHITECTURES[name].build is not build:
        raise ValueError(f"architecture {name!r} is already registered")
    entry = Architecture(build, input_shape, misfit=misfit)
    ARCHITECTURES[name] = entry if arguments is None else replace(entry, arguments=arguments)
