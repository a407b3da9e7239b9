"""Tied weights: parameters of several modules that are one parameter. They stay one when modules get other tensors."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from common.errors import UserError


def tied_parameters(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that several modules share. (A module with several names is listed once.)"""
    names: dict[nn.Parameter, list[str]] = {}
    for module_name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(parameter, []).append(f"{module_name}.{key}" if module_name else key)
    return [found for found in names.values() if len(found) > 1]


def tie(model: nn.Module, ties: Iterable[Sequence[str]], any_values: bool = False) -> None:
    """Make the parameters of each list one again, in place, if their values (``any_values``: their shapes) are equal.

    Raises UserError for a parameter that the network does not have.
    """
    for names in ties:
        first = _parameter(model, names[0])
        for name in names[1:]:
            other = _parameter(model, name)
            if other.shape == first.shape and (any_values or first.is_meta or torch.equal(first, other)):
                module, _, key = name.rpartition(".")
                model.get_submodule(module)._parameters[key] = first


def check_tied(model: nn.Module, ties: Iterable[Sequence[str]]) -> None:
    """Raise UserError if parameters that were one before pruning differ now. Missing names are ignored."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for names in ties:
        if len({parameters[name] for name in names if name in parameters}) > 1:
            raise UserError(
                f"{names[0]} and {names[1]} are one parameter (tied weights), which pruning would separate; do not prune "
                "these layers"
            )


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    try:
        return model.get_parameter(name)
    except AttributeError as error:
        raise UserError(f"the network has no parameter {name!r}, which should be tied to another") from error


def shared_memory(model: nn.Module) -> list[tuple[str, str]]:
    """Return pairs of names of parameters or buffers that are not one parameter, but overlap in memory.

    Examples are a transposed view of another weight, and a buffer of two modules. Files hold them separately.
    """
    known = {name for names in tied_parameters(model) for name in names[1:]}
    tensors = [
        (n, t) for n, t in (*model.named_parameters(), *model.named_buffers(remove_duplicate=False)) if n not in known
    ]
    modules: dict[int, str] = {}  # a module with several names has its tensors under each of them
    for name, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(id(module), name)
    places: list[tuple[int, int, str]] = []
    for name, tensor in tensors:
        module = name.rpartition(".")[0]
        if modules[id(model.get_submodule(module))] != module or tensor.is_meta or not tensor.numel():
            continue
        if tensor.layout is torch.strided:
            last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            places.append((tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size(), name))
    pairs, reached, owner = [], 0, ""
    for start, end, name in sorted(places, key=lambda place: place[0]):  # of equal ones, the first in module order
        if start < reached:
            pairs.append((owner, name))
        if end > reached:
            reached, owner = end, name
    return pairs
