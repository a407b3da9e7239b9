"""The networks that the project knows by name: a literal registry."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

import torch
import torchvision
from torch import nn

from common.errors import UserError
from common.models.densenet_cifar import CifarDenseNet
from common.models.fc import OneHiddenLayer
from common.models.lenet import LeNet5, LeNet300100
from common.models.mobilenet_v1 import MobileNetV1
from common.models.resnet_cifar import CifarResNet
from common.models.shortcut import PadShortcut
from common.models.vgg_cifar import CifarVGG

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "PadShortcut",
    "arguments_for",
    "create_model",
    "input_shape",
    "is_known",
    "register",
    "skeleton",
]

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
GROUP = "compression_papers.architectures"  # entry points: modules of installed packages that register networks


@dataclass(frozen=True)
class Architecture:
    """How to build a network and the shape (C, H, W) of the pictures that it was made for.

    meta: it can be built on torch's meta device, without memory for its weights; nobody knows that of a user's own.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    meta: bool = True


ARCHITECTURES: dict[str, Architecture] = {
    "vgg16": Architecture(CifarVGG, CIFAR),
    "resnet20": Architecture(partial(CifarResNet, 3), CIFAR),
    "resnet32": Architecture(partial(CifarResNet, 5), CIFAR),
    "resnet44": Architecture(partial(CifarResNet, 7), CIFAR),
    "resnet56": Architecture(partial(CifarResNet, 9), CIFAR),
    "resnet110": Architecture(partial(CifarResNet, 18), CIFAR),
    "densenet40": Architecture(CifarDenseNet, CIFAR),
    "resnet50": Architecture(torchvision.models.resnet50, IMAGENET),
    "mobilenet_v1": Architecture(MobileNetV1, IMAGENET),
    "mobilenet_v2": Architecture(torchvision.models.mobilenet_v2, IMAGENET),
    "vgg16_imagenet": Architecture(torchvision.models.vgg16, IMAGENET),
    "lenet300_100": Architecture(LeNet300100, (1, 28, 28)),
    "lenet5": Architecture(LeNet5, (1, 28, 28)),
    "fc4096": Architecture(OneHiddenLayer, (1, 28, 28)),
}


def create_model(arch: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Build a network by name; ``model.architecture`` records name and arguments, which a checkpoint needs.

    Raises UserError for an unknown name (listing the known ones) or an argument that the network does not take.
    """
    try:
        model = find_architecture(arch).build(num_classes=num_classes, **kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{arch} cannot be built with {kwargs or {'num_classes': num_classes}}: {error}") from error
    model.architecture = {"arch": arch, "args": {"num_classes": num_classes, **kwargs}}
    return model


def skeleton(arch: str, **arguments: Any) -> nn.Module:
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


def register(name: str, build: Callable[..., nn.Module], input_shape: tuple[int, int, int]) -> None:
    """Add a network of another package (called where that package is imported); a name is taken only once."""
    if name in ARCHITECTURES and ARCHITECTURES[name].build is not build:
        raise ValueError(f"architecture {name!r} is already registered")
    ARCHITECTURES[name] = Architecture(build, input_shape)
