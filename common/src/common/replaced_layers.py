"""Describe layers that differ from a network's architecture, for a checkpoint's header, and rebuild them.

A strided 1x1 convolution in place of a shortcut, or two low-rank factors in place of a layer, cannot be derived from
the shapes of tensors. The table lists such layers by module name; they are built from numbers within limits, never from
code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from common.channels.attention import HeadAttention
from common.channels.resize import COUNTS, is_depthwise
from common.channels.window_attention import WindowAttention, position_layers
from common.errors import UserError
from common.models import create_meta_model, is_registered

CONV_PAIRS = ("kernel_size", "stride", "padding", "dilation")
WINDOWS, DROPOUTS = ("window_size", "shift_size"), ("attention_dropout", "dropout")
LAYERS_LIMIT = 10_000
PARTS_LIMIT = 8  # layers in a sequence
CHANNELS_LIMIT = 10**6
WINDOW_LIMIT = 64  # positions in a row or column of a window of attention
PAIR_LIMIT = 1024  # kernel size, stride, padding, dilation


def replaced_layer_table(
    model: nn.Module,
    arch: str | None,
    arch_args: Mapping[str, Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> dict[str, dict[str, Any]]:
    """Describe the layers that differ from the registered network, or from that of ``factory``.

    Without a factory, the table of an unregistered network lists only its attention, whose number of heads no tensor
    shows.
    """
    if factory is not None:
        return describe_replaced_layers(model, factory())
    if arch is None or not is_registered(arch):
        return _attentions(model)
    return describe_replaced_layers(model, create_meta_model(arch, **(arch_args or {})))


def describe_replaced_layers(model: nn.Module, fresh: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe, by name, the modules of ``model`` whose class or settings (except widths) differ from ``fresh``.

    Only layers that can be rebuilt are listed: Conv2d, Linear, and Sequential of these.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, before in fresh.named_modules():
        if any(name == done or name.startswith(f"{done}.") for done, of in table.items() if of["kind"] != "counts"):
            continue
        try:
            now = model.get_submodule(name)
        except AttributeError:
            continue
        if type(now) is not type(before) or _settings(now) != _settings(before):
            description = describe_layer(now)
        else:
            description = _counts(now) if _counts(now) != _counts(before) else None
        if description is not None and (name or description["kind"] == "counts"):
            table[name] = description
    return table


def _attentions(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe the modules that count attention heads."""
    table = {}
    for name, module in model.named_modules():
        shown = isinstance(module, (HeadAttention, WindowAttention))
        description = describe_layer(module) if shown else _counts(module)
        if description:
            table[name] = description
    return table


def _counts(module: nn.Module) -> dict[str, Any] | None:
    """Describe what a module records of its heads, groups and widths and no tensor shows; None if it records nothing."""
    if isinstance(module, nn.GroupNorm):
        keys: tuple[str, ...] = () if module.affine else ("num_groups", "num_channels")
    elif isinstance(module, nn.LayerNorm):
        keys = () if module.elementwise_affine else ("normalized_shape",)
    else:
        keys = () if type(module).__module__.startswith("torch.") else COUNTS
    found = {key: vars(module)[key] for key in keys if key in vars(module)}
    counts = {key: value[0] if isinstance(value, tuple) else value for key, value in found.items()}
    counts = {key: value for key, value in counts.items() if type(value) is int}
    if not counts:
        return None
    return {"kind": "counts", "counts": counts}


def describe_layer(module: nn.Module) -> dict[str, Any] | None:
    """Describe a layer by plain numbers; return None for a layer that cannot be rebuilt."""
    if type(module) is nn.Sequential:
        parts = [describe_layer(part) for part in module]
        complete = parts and all(part is not None and part["kind"] != "sequence" for part in parts)
        return {"kind": "sequence", "layers": parts} if complete else None
    if isinstance(module, HeadAttention):
        return {
            "kind": "attention",
            **{key: getattr(module, key) for key in ("embed_dim", "num_heads", "head_dim", "batch_first", "dropout")},
            "out_features": module.out_proj.out_features,
            "bias": module.in_proj_bias is not None,
        }
    if isinstance(module, WindowAttention):
        return {
            "kind": "window attention",
            **{key: getattr(module, key) for key in ("num_heads", "head_dim", *WINDOWS, *DROPOUTS)},
            "in_features": module.qkv.in_features,
            "out_features": module.proj.out_features,
            "bias": module.qkv.bias is not None,
            "proj_bias": module.proj.bias is not None,
            "hidden": module.cpb_mlp[0].out_features if module.is_cosine else None,
        }
    if type(module) is nn.Linear:
        width = {"in_features": module.in_features, "out_features": module.out_features}
        return {"kind": "linear", **width, "bias": module.bias is not None}
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        width = {"in_channels": module.in_channels, "out_channels": module.out_channels, "groups": module.groups}
        pairs = {name: list(getattr(module, name)) for name in CONV_PAIRS}
        return {"kind": "conv2d", **width, **pairs, "bias": module.bias is not None}
    return None


def insert_replaced_layers(model: nn.Module, table: Any, path: object) -> None:
    """Build the layers of a table, without memory for weights, and insert them into a newly built network, in place.

    Raises UserError for a table that :func:`describe_replaced_layers` does not write, or that does not belong to the
    network.
    """
    if not isinstance(table, dict) or len(table) > LAYERS_LIMIT:
        raise UserError(f"{path}: the table of replaced layers is invalid")
    names = {name for name, _ in model.named_modules()}
    for name, description in table.items():
        counts = isinstance(description, dict) and description.get("kind") == "counts"
        if name not in names or not (name or counts):
            raise UserError(f"{path}: replaced layer {name!r} does not exist in the network")
        try:
            if counts:
                _set_counts(model.get_submodule(name), description["counts"])
                continue
            with torch.device("meta"):
                layer = _build(description)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: the description of layer {name} is invalid ({error})") from error
        model.set_submodule(name, layer)


def _set_counts(module: nn.Module, counts: Any) -> None:
    known = _counts(module)
    if not isinstance(counts, dict) or known is None or not counts.keys() <= known["counts"].keys():
        raise ValueError("the module does not record these numbers")
    for key, value in counts.items():
        number = _integer(value, 1, CHANNELS_LIMIT)
        setattr(module, key, (number,) if isinstance(getattr(module, key), tuple) else number)


def _build(description: Any, within: bool = False) -> nn.Module:
    kind = description["kind"]
    if kind == "sequence" and not within:
        parts = description["layers"]
        if not isinstance(parts, list) or not 1 <= len(parts) <= PARTS_LIMIT:
            raise ValueError(f"expected a sequence of 1 to {PARTS_LIMIT} layers")
        return nn.Sequential(*(_build(part, within=True) for part in parts))
    if not isinstance(description["bias"], bool):
        raise TypeError("bias must be true or false")
    if kind == "attention":
        embed, heads, head, outputs = (
            _integer(description[key], 1, CHANNELS_LIMIT)
            for key in ("embed_dim", "num_heads", "head_dim", "out_features")
        )
        bias, batch_first, dropout = description["bias"], description["batch_first"], _fraction(description["dropout"])
        if heads * head > CHANNELS_LIMIT or not isinstance(batch_first, bool):
            raise ValueError("invalid attention")
        layer = HeadAttention(embed, heads, head, bias, batch_first, dropout)
        layer.out_proj = nn.Linear(heads * head, outputs, bias=bias)
        return layer
    if kind == "window attention":
        return _build_window_attention(description)
    if kind == "linear":
        inputs, outputs = (_integer(description[name], 1, CHANNELS_LIMIT) for name in ("in_features", "out_features"))
        return nn.Linear(inputs, outputs, bias=description["bias"])
    if kind == "conv2d":
        inputs, outputs = (_integer(description[name], 1, CHANNELS_LIMIT) for name in ("in_channels", "out_channels"))
        pairs: dict[str, Any] = {
            name: _pair(description[name], minimum=0 if name == "padding" else 1) for name in CONV_PAIRS
        }
        groups = _integer(description["groups"], 1, CHANNELS_LIMIT)
        return nn.Conv2d(inputs, outputs, **pairs, groups=groups, bias=description["bias"])
    raise ValueError(f"unknown kind {kind!r}")


def _build_window_attention(description: Any) -> WindowAttention:
    heads, head, inputs, outputs = (
        _integer(description[key], 1, CHANNELS_LIMIT)
        for key in ("num_heads", "head_dim", "in_features", "out_features")
    )
    if heads * head > CHANNELS_LIMIT or not isinstance(description["proj_bias"], bool):
        raise ValueError("invalid attention")
    window, shift = (_pair(description[key], least, WINDOW_LIMIT) for key, least in zip(WINDOWS, (1, 0), strict=True))
    hidden = description["hidden"]
    if hidden is not None:
        hidden = _integer(hidden, 1, CHANNELS_LIMIT)
    attention_dropout, dropout = (_fraction(description[key]) for key in DROPOUTS)
    return WindowAttention(
        nn.Linear(inputs, 3 * heads * head, bias=description["bias"]),
        nn.Linear(heads * head, outputs, bias=description["proj_bias"]),
        head,
        window,
        shift,
        attention_dropout,
        dropout,
        None if hidden is None else position_layers(hidden, heads),
    )


def _pair(value: Any, minimum: int, maximum: int = PAIR_LIMIT) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("expected two integers")
    return _integer(value[0], minimum, maximum), _integer(value[1], minimum, maximum)


def _integer(value: Any, minimum: int, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ValueError(f"expected an integer from {minimum} to {maximum}, not {value!r}")
    return value


def _fraction(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"expected a number from 0 to 1, not {value!r}")
    return float(value)


def _settings(module: nn.Module) -> Mapping[str, Any]:
    """Return the settings that a layer's tensors do not determine. Pruned depthwise convolutions stay depthwise."""
    if isinstance(module, nn.Linear):
        return {"bias": module.bias is not None}
    if not isinstance(module, nn.Conv2d):
        return {}
    numbers = {name: getattr(module, name) for name in CONV_PAIRS}
    groups = "depthwise" if is_depthwise(module) else module.groups
    return {**numbers, "groups": groups, "bias": module.bias is not None}
