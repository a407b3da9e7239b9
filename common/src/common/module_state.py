"""What a network holds in addition to its state dict: buffers that are not saved, tied weights, versions of its modules.

Files of networks record these as ``buffers``, ``tied`` and ``versions``, if there are any.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.models import input_shape, is_registered
from common.models.shortcut import PadShortcut
from common.tied import tied_parameters

STATISTICS = ("running_mean", "running_var")
NAMES_LIMIT = 100_000


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict and the buffers that are not part of it. Raises UserError for a state that is not a tensor."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name}: a {type(value).__name__}, not a tensor; networks with such a state cannot be saved"
            )
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return dict(state) | {name: buffers[name] for name in _unsaved_buffers(model)}


def describe_state(model: nn.Module) -> dict[str, Any]:
    """Return the header's entries on a network's state; empty ones are omitted."""
    versions = {
        name: module._version
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn.") and module._version not in (None, 1)
    }
    found = {"buffers": _unsaved_buffers(model), "tied": tied_parameters(model), "versions": versions}
    return {key: value for key, value in found.items() if value}


def check_state_fields(header: Mapping[str, Any], path: object) -> None:
    """Raise UserError if the header's entries on a network's state are not of the form that :func:`describe_state` writes."""
    buffers, tied, versions = (
        header.get(key) or kind() for key, kind in (("buffers", list), ("tied", list), ("versions", dict))
    )
    valid = (
        _are_names(buffers)
        and isinstance(tied, list)
        and all(_are_names(names) and len(names) > 1 for names in tied)
        and isinstance(versions, dict)
        and all(type(version) is int for version in versions.values())
    )
    if not valid:
        raise UserError(f"{path}: the lists of buffers, tied weights or versions are invalid; save the network again")


def restore_buffers(
    model: nn.Module, tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: object
) -> dict[str, Tensor]:
    """Restore the buffers that are not part of the state dict, in place, and return the other tensors. Raises UserError."""
    others = dict(tensors)
    for name in header.get("buffers") or ():
        place, _, key = name.rpartition(".")
        try:
            model.get_submodule(place).register_buffer(key, others.pop(name), persistent=False)
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path}: the buffer {name} is not in the file or not in the network") from error
    return others


def check_finite(model: nn.Module, path: object) -> None:
    """Raise UserError, naming the tensor, if weights or statistics of normalization layers are NaN or infinite.

    A negative variance, of which the square root is NaN, is an error, too.
    """
    statistics = {n: b for n, b in model.named_buffers() if n.rpartition(".")[2] in STATISTICS}
    for name, tensor in {**dict(model.named_parameters()), **statistics}.items():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.detach().float().isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite; the weights are damaged")
        if name.endswith("running_var") and not tensor.is_meta and bool((tensor < 0).any()):
            raise UserError(f"{path}: {name} has negative variances ({float(tensor.min()):g}); the weights are damaged")


def check_single_precision(model: nn.Module, path: object) -> None:
    """Raise UserError, naming the parameter, unless all floating-point parameters are float32, like the images."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype is not torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} is {kind}, but images are float32; convert the network with model.float()")


def check_widths(model: nn.Module, path: object) -> None:
    """Raise UserError unless each layer of a registered network fits its input; usually, nothing is computed."""
    record = getattr(model, "architecture", None)
    if not record or not is_registered(record["arch"]):
        return
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    image = torch.zeros(
        1, *input_shape(model), dtype=next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
    )
    handles = [
        module.register_forward_pre_hook(_check_source(int(module.source.max())))
        for module in model.modules()
        if isinstance(module, PadShortcut)
    ]
    try:
        if _problem(model, {name: tensor.to("meta") for name, tensor in tensors.items()}, image.to("meta")) is None:
            return
        problem = _problem(model, tensors, image)  # a network may be unable to run without values
    finally:
        for handle in handles:
            handle.remove()
    if problem is not None:
        raise UserError(f"{path}: the widths of the layers do not fit together ({problem}); the file is damaged")


@torch.no_grad()
def _problem(model: nn.Module, tensors: Mapping[str, Tensor], image: Tensor) -> str | None:
    """Return why a network with these tensors does not accept an image; None if it does."""
    try:
        torch.func.functional_call(model, dict(tensors), (image,))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return " ".join(str(error).split())[:200]
    return None


def _check_source(last: int):
    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if last >= inputs[0].shape[1]:
            raise ValueError(f"a shortcut reads channel {last} of {inputs[0].shape[1]}")

    return check


def _unsaved_buffers(model: nn.Module) -> list[str]:
    return [
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if key in module._non_persistent_buffers_set and buffer is not None
    ]


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and len(names) <= NAMES_LIMIT and all(isinstance(name, str) for name in names)
