"""Registry of networks by name."""

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
from common.models.alexnet import AlexNet
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
    validate_argument_shapes,
    validate_arguments,
)
from common.models.densenet_cifar import CifarDenseNet
from common.models.efficientnet_lite import EfficientNetLite0
from common.models.fc import OneHiddenLayer
from common.models.googlenet_cifar import CifarGoogLeNet
from common.models.lenet import LeNet5, LeNet300100
from common.models.mobilenet_v1 import MobileNetV1
from common.models.mobilenet_v2 import mobilenet_v2
from common.models.resnet_cifar import CifarResNet
from common.models.shortcut import PadShortcut
from common.models.squeezenet import squeezenet1_0
from common.models.vgg_cifar import POOL, CifarVGG

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "PadShortcut",
    "arguments_for",
    "check_arguments",
    "create_meta_model",
    "create_model",
    "input_shape",
    "is_registered",
    "register",
]

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
GROUP = "compression_papers.architectures"  # entry points: modules of installed packages that register networks


@dataclass(frozen=True)
class Architecture:
    """Entry of the registry.

    Attributes:
        build: Constructor of the network.
        input_shape: Default shape (C, H, W) of the images.
        meta: Whether the network can be built on torch's meta device, without memory for its weights.
        arguments: Arguments that ``build`` accepts, with their valid values.
        validate_shapes: Function (arguments, shapes of a file's tensors) -> reason why the file belongs to another
            network, or None. Needed if building the network takes memory.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    meta: bool = True
    arguments: Mapping[str, Argument] = field(default_factory=lambda: {"num_classes": Integer(1, 10**6)})
    validate_shapes: Callable[[Mapping[str, Any], Collection[Sequence[int]]], str | None] | None = None


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    """Build one of torchvision's networks; importing torchvision takes longer than importing torch."""
    import torchvision

    return getattr(torchvision.models, name)(**arguments)


WIDTH_MULT = Number(0.01, 16)
TENSORFLOW: dict[str, Argument] = {"tensorflow": FLAG, "batch_norm": FLAG}
RESNET: dict[str, Argument] = {**IMAGE_ARGUMENTS, "shortcut": Choice(("pad", "conv3x3"))}
VGG: dict[str, Argument] = {
    **IMAGE_ARGUMENTS,
    "config": Layers(200, WIDTH, markers=(POOL,), max_markers=5),
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
    "googlenet": Architecture(CifarGoogLeNet, CIFAR, arguments=IMAGE_ARGUMENTS),
    "alexnet": Architecture(AlexNet, IMAGENET, arguments={**IMAGE_ARGUMENTS, "dropout": PROBABILITY}),
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
    "mobilenet_v1": Architecture(
        MobileNetV1, IMAGENET, arguments={**IMAGE_ARGUMENTS, "width_mult": WIDTH_MULT, **TENSORFLOW}
    ),
    "mobilenet_v2": Architecture(
        mobilenet_v2,
        IMAGENET,
        arguments={
            "num_classes": NUM_CLASSES,
            "width_mult": WIDTH_MULT,
            **TENSORFLOW,
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
    "efficientnet_lite0": Architecture(
        EfficientNetLite0, IMAGENET, arguments={**IMAGE_ARGUMENTS, "dropout": PROBABILITY}
    ),
    "squeezenet1_0": Architecture(
        squeezenet1_0,
        IMAGENET,
        arguments={"num_classes": NUM_CLASSES, "dropout": PROBABILITY, "padding": Integer(0, 1)},
    ),
    "squeezenet1_1": Architecture(
        partial(_torchvision, "squeezenet1_1"),
        IMAGENET,
        arguments={"num_classes": NUM_CLASSES, "dropout": PROBABILITY},
    ),
}


def create_model(arch: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Build a network by name and record its name and arguments, for checkpoints, in ``model.architecture``.

    Args:
        arch: Registered name, e.g. "resnet20".
        num_classes: Number of classes.
        **kwargs: Further constructor arguments.

    Raises:
        UserError: If the name is unknown (lists the known names), or an argument is unknown or out of bounds.
    """
    entry = find_architecture(arch)
    arguments = {"num_classes": num_classes, **kwargs}
    problem = validate_arguments(entry.arguments, arguments)
    if problem:
        raise UserError(f"{arch} cannot be built: {problem}")
    try:
        model = entry.build(**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{arch} cannot be built with {arguments}: {error}") from error
    model.architecture = {"arch": arch, "args": arguments}  # type: ignore[assignment]
    return model


def check_arguments(arch: str, arguments: Any, shapes: Collection[Sequence[int]]) -> dict[str, Any]:
    """Check the arguments that a file records for a registered network, before it is built, and return them.

    shapes: shapes of the file's tensors. Raises UserError for arguments that :func:`create_model` rejects, and for a
    network that is larger than the tensors.
    """
    entry = find_architecture(arch)
    if not isinstance(arguments, dict):
        raise UserError(f"the arguments of {arch} are not a table of names and values")
    problem = validate_arguments(entry.arguments, arguments) or validate_argument_shapes(
        entry.arguments, arguments, shapes
    )
    if problem is None and entry.validate_shapes is not None:
        problem = entry.validate_shapes(arguments, shapes)
    if problem:
        raise UserError(f"the arguments of {arch} are not acceptable: {problem}")
    return arguments


def create_meta_model(arch: str, **arguments: Any) -> nn.Module:
    """Build a network on torch's meta device, without memory for weights, if it supports that: see :func:`create_model`."""
    with torch.device("meta") if find_architecture(arch).meta else nullcontext():
        return create_model(arch, **arguments)


def arguments_for(arch: str, shape: Sequence[int]) -> dict[str, int]:
    """Return the non-default constructor arguments for a registered network that reads images of shape (C, H, W)."""
    entry = find_architecture(arch)
    parameters = inspect.signature(entry.build).parameters
    if len(shape) != 3:
        raise UserError(f"{arch} reads images, not examples of shape {tuple(shape)}; give channels, height and width")
    channels, height, width = shape
    values = {"in_features": channels * height * width, "in_channels": channels, "image_size": height}
    return {name: v for name, v in values.items() if name in parameters and parameters[name].default != v}


def find_architecture(arch: str) -> Architecture:
    """Return an entry of the registry. Raises UserError, listing the known names, for an unknown name."""
    if not is_registered(arch):
        raise UserError(f"unknown architecture {arch!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def is_registered(arch: str) -> bool:
    """Return whether a name is in the registry, including the networks of all installed packages."""
    if arch not in ARCHITECTURES:
        _import_registering_packages()
    return arch in ARCHITECTURES


@cache
def _import_registering_packages() -> None:
    for point in entry_points(group=GROUP):
        point.load()


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images that a network of :func:`create_model` reads."""
    record = getattr(model, "architecture", None)
    if record is None:
        raise UserError("input shape unknown: the network was not built by create_model; pass the input shape")
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
    validate_shapes: Callable[[Mapping[str, Any], Collection[Sequence[int]]], str | None] | None = None,
) -> None:
    """Register a network of another package; called when that package is imported.

    arguments, validate_shapes: see :class:`Architecture`; default: ``num_classes`` only. Raises ValueError if the name
    is registered for another network.
    """
    if name in ARCHITECTURES and ARCHITECTURES[name].build is not build:
        raise ValueError(f"architecture {name!r} is already registered")
    entry = Architecture(build, input_shape, validate_shapes=validate_shapes)
    ARCHITECTURES[name] = entry if arguments is None else replace(entry, arguments=arguments)
