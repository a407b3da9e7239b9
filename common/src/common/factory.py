"""A network from command-line options: one of ours by name, foreign weights, a checkpoint, or a user's own factory."""

import argparse
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from common.checkpoint import load_model, load_tensors, read_tensors
from common.errors import UserError
from common.formats import load_network
from common.models import ARCHITECTURES, arguments_for, create_model, find_architecture, input_shape, is_known
from common.options import Network


def add_model_options(parser: argparse.ArgumentParser, arch: str | None = None) -> None:
    """--arch, --weights, --checkpoint, --model, --shortcut."""
    group = parser.add_argument_group("network")
    group.add_argument("--arch", default=arch, help=f"one of {', '.join(ARCHITECTURES)}")
    group.add_argument(
        "--weights", default=None, help="state dict to load into --arch or --model (.pth, .th, .safetensors)"
    )
    group.add_argument("--checkpoint", default=None, help="a model.safetensors of this project: network and weights")
    group.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY, a callable that builds your own network")
    group.add_argument(
        "--shortcut", default=None, choices=("pad", "conv3x3"), help="CIFAR ResNets; from the weights if given"
    )


def model_from_options(
    args: "Network | argparse.Namespace", num_classes: int | None = None, shape: Sequence[int] | None = None
) -> tuple[nn.Module, tuple[int, int, int] | None]:
    """(network, input shape (C, H, W) or None for a user's own) from the options of :func:`add_model_options`.

    num_classes and shape (C, H, W): those of the data, which a registered network is built for.
    """
    factory = import_factory(args.model, num_classes) if args.model else None
    if args.checkpoint:
        model = load_network(args.checkpoint, factory)
    elif factory:
        model = factory()
        if args.weights:
            load_tensors(model, read_tensors(args.weights), args.weights)
    elif args.arch:
        model = named_model(args.arch, args.weights, num_classes, shape, args.shortcut)
    else:
        raise UserError("say which network: --arch NAME, --checkpoint FILE or --model PACKAGE.MODULE:FACTORY")
    record = getattr(model, "architecture", None)
    return model, (input_shape(model) if record and is_known(record["arch"]) else None)


def named_model(
    arch: str,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    shape: Sequence[int] | None = None,
    shortcut: str | None = None,
) -> nn.Module:
    """A registered network, with weights if given; without ``shortcut`` its kind is taken from the weights.

    num_classes and shape (C, H, W): those of the pictures that it shall read, where a constructor argument allows it.
    """
    find_architecture(arch)
    arguments: dict[str, Any] = {"num_classes": num_classes or 10}
    if shape is not None:
        arguments |= arguments_for(arch, shape)
    if shortcut is not None:
        arguments["shortcut"] = shortcut
    if not weights:
        return create_model(arch, **arguments)
    if Path(weights).suffix == ".safetensors" and _is_checkpoint(weights):
        return load_model(weights)
    tensors = read_tensors(weights)
    if arch in CIFAR_RESNETS and shortcut is None and any(".shortcut.conv." in name for name in tensors):
        arguments["shortcut"] = "conv3x3"
    model = create_model(arch, **arguments)
    load_tensors(model, tensors, weights, optional=("num_batches_tracked", "source"))
    return model


CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


def _is_checkpoint(path: Path | str) -> bool:
    from common.checkpoint import _read_safetensors

    return "compression_papers" in _read_safetensors(path)[0]


def import_factory(name: str, num_classes: int | None = None) -> Callable[[], nn.Module]:
    """The callable ``PACKAGE.MODULE:FACTORY``; it gets ``num_classes`` if it takes that argument. Raises UserError."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"--model {name}: expected PACKAGE.MODULE:FACTORY")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        takes_classes = "num_classes" in inspect.signature(factory).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--model {name}: {error}") from error
    if takes_classes and num_classes is not None:
        return lambda: factory(num_classes=num_classes)
    return factory
