"""Example inputs and outputs of any structure: a tensor, several tensors, dicts and dataclasses."""

import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from common.errors import UserError

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a network: with one tensor, several positional inputs, or a dict of named inputs.

    A sequence or a dict that does not fit the signature of ``forward`` is passed as one argument.
    """
    if isinstance(inputs, Tensor):
        return model(inputs)
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return model(inputs)
    return model(*args, **kwargs)


def input_tensors(inputs: Inputs) -> list[Tensor]:
    """Return the tensors of an input, in order. Raises UserError if there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(_plain(inputs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise UserError("example input: it contains no tensor; give a tensor, a tuple or a dict of tensors")
    return tensors


def map_tensors(function: Any, inputs: Inputs) -> Inputs:
    """Apply a function to all tensors of an input and keep its structure."""
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, _plain(inputs))


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors of an output, in order: of tuples, lists, dicts, dataclasses and their nesting."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [tensor for value in outputs.values() for tensor in output_tensors(value)]
    if isinstance(outputs, (list, tuple)):
        return [tensor for value in outputs for tensor in output_tensors(value)]
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return [
            tensor for field in dataclasses.fields(outputs) for tensor in output_tensors(getattr(outputs, field.name))
        ]
    return []


def shapes_of(inputs: Inputs) -> str:
    """Format the shapes of an input for messages."""
    shapes = [str(tuple(tensor.shape)) for tensor in input_tensors(inputs)]
    return f"shape {shapes[0]}" if len(shapes) == 1 else f"shapes {', '.join(shapes)}"


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter, or the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy. Raises UserError if the network cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # of the network's own code, or of torch for lazy modules and tensors that have a graph
        raise _cannot_copy(model, error) from error


def copy_sharing_tensors(
    model: nn.Module, requires_grad: bool | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a deep copy whose parameters and buffers share memory with those of the given network.

    Those that were created under ``torch.inference_mode`` are copied.

    Args:
        requires_grad: Whether the new floating-point parameters require gradients; None for unchanged.
        dtype: Type of the new floating-point tensors; they share no memory if it is another one.

    Raises:
        UserError: If the network cannot be copied.
    """
    shared: dict[int, Any] = {}
    try:
        with torch.inference_mode(False):
            for parameter in model.parameters():
                grad = parameter.requires_grad if requires_grad is None else requires_grad
                tensor = _as(parameter.detach(), dtype)
                shared[id(parameter)] = nn.Parameter(tensor, grad and tensor.is_floating_point())
            shared |= {id(buffer): _as(buffer, dtype) for buffer in model.buffers()}
            return copy.deepcopy(model, shared)
    except Exception as error:
        raise _cannot_copy(model, error) from error


def _cannot_copy(model: nn.Module, error: Exception) -> UserError:
    return UserError(f"{type(model).__name__}: the network cannot be copied: {one_line(error)}")


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if tensor.is_inference():  # autograd accepts only a copy
        tensor = tensor.clone()
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _plain(inputs: Inputs) -> Any:
    """Convert mappings and sequences of types that pytree does not know to dicts and lists."""
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, Mapping):
        return {key: _plain(value) for key, value in inputs.items()}
    if isinstance(inputs, list):
        return [_plain(value) for value in inputs]
    return tuple(_plain(value) for value in inputs) if type(inputs) is tuple else inputs
