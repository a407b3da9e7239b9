"""Layers of a network that are not those of its architecture, as a literal table: what a checkpoint's header says of them.

A strided 1x1 convolution in a shortcut's place, or two factors in a layer's place, cannot be told from tensors' shapes. The
table lists them by module name; a layer is built from numbers within limits, never from code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from common.channels.resize import is_depthwise
from common.errors import UserError
from common.models import create_meta_model, is_known

CONV_PAIRS = ("kernel_size", "stride", "padding", "dilation")
LAYERS_LIMIT = 10_000
PARTS_LIMIT = 8  # layers in a sequence
CHANNELS_LIMIT = 10**6
PAIR_LIMIT = 1024  # kernel size, stride, padding, dilation


def replaced_layers(
    model: nn.Module,
    arch: str | None,
    arch_args: Mapping[str, Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> dict[str, dict[str, Any]]:
    """The table for a file: what is not as the registry, or ``factory``, builds it; nothing for a network that neither knows."""
    if factory is not None:
        return describe_replaced(model, factory())
    if arch is None or not is_known(arch):
        return {}
    return describe_replaced(model, create_meta_model(arch, **(arch_args or {})))


def describe_replaced(model: nn.Module, fresh: nn.Module) -> dict[str, dict[str, Any]]:
    """{module name: description} of the modules of ``model`` that differ from ``fresh`` in class or in numbers beside widths.

    Only kinds that can be rebuilt are listed: Conv2d, Linear, and Sequential of these.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, before in fresh.named_modules():
        if any(name == done or name.startswith(f"{done}.") for done in table):
            continue
        try:
            now = model.get_submodule(name)
        except AttributeError:
            continue
        if type(now) is not type(before) or _numbers(now) != _numbers(before):
            description = describe_layer(now)
            if description is not None:
                table[name] = description
    return table


def describe_layer(module: nn.Module) -> dict[str, Any] | None:
    """A layer as plain numbers; None for a kind that is not rebuilt."""
    if type(module) is nn.Sequential:
        parts = [describe_layer(part) for part in module]
        whole = parts and all(part is not None and part["kind"] != "sequence" for part in parts)
        return {"kind": "sequence", "layers": parts} if whole else None
    if type(module) is nn.Linear:
        width = {"in_features": module.in_features, "out_features": module.out_features}
        return {"kind": "linear", **width, "bias": module.bias is not None}
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        width = {"in_channels": module.in_channels, "out_channels": module.out_channels, "groups": module.groups}
        pairs = {name: list(getattr(module, name)) for name in CONV_PAIRS}
        return {"kind": "conv2d", **width, **pairs, "bias": module.bias is not None}
    return None


def build_replaced(model: nn.Module, table: Any, path: object) -> None:
    """Put the layers of a table into a freshly built network, in place and without memory for their weights.

    Raises UserError for a table that is not of the form that :func:`describe_replaced` writes, or has no place in the network.
    """
    if not isinstance(table, dict) or len(table) > LAYERS_LIMIT:
        raise UserError(f"{path}: its table of replaced layers is not acceptable")
    names = {name for name, _ in model.named_modules()}
    for name, description in table.items():
        if not name or name not in names:
            raise UserError(f"{path}: it replaces a layer {name!r} that the network does not have")
        try:
            with torch.device("meta"):
                layer = _build(description)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: its description of the layer {name} is not acceptable ({error})") from error
        model.set_submodule(name, layer)


def _build(description: Any, within: bool = False) -> nn.Module:
    kind = description["kind"]
    if kind == "sequence" and not within:
        parts = description["layers"]
        if not isinstance(parts, list) or not 1 <= len(parts) <= PARTS_LIMIT:
            raise ValueError(f"a sequence of 1 to {PARTS_LIMIT} layers was expected")
        return nn.Sequential(*(_build(part, within=True) for part in parts))
    if not isinstance(description["bias"], bool):
        raise TypeError("bias is true or false")
    if kind == "linear":
        read, made = (_integer(description[name], 1, CHANNELS_LIMIT) for name in ("in_features", "out_features"))
        return nn.Linear(read, made, bias=description["bias"])
    if kind == "conv2d":
        read, made = (_integer(description[name], 1, CHANNELS_LIMIT) for name in ("in_channels", "out_channels"))
        pairs: dict[str, Any] = {
            name: _pair(description[name], least=0 if name == "padding" else 1) for name in CONV_PAIRS
        }
        groups = _integer(description["groups"], 1, CHANNELS_LIMIT)
        return nn.Conv2d(read, made, **pairs, groups=groups, bias=description["bias"])
    raise ValueError(f"unknown kind {kind!r}")


def _pair(value: Any, least: int) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("two integers were expected")
    return _integer(value[0], least, PAIR_LIMIT), _integer(value[1], least, PAIR_LIMIT)


def _integer(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"an integer from {least} to {most} was expected, not {value!r}")
    return value


def _numbers(module: nn.Module) -> Mapping[str, Any]:
    """What a layer's tensors do not tell. A depthwise convolution stays one when it is cut."""
    if isinstance(module, nn.Linear):
        return {"bias": module.bias is not None}
    if not isinstance(module, nn.Conv2d):
        return {}
    numbers = {name: getattr(module, name) for name in CONV_PAIRS}
    groups = "depthwise" if is_depthwise(module) else module.groups
    return {**numbers, "groups": groups, "bias": module.bias is not None}
