"""Record the calls of a network's modules in the forward pass of one example, and count their MACs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeGuard

import torch
from torch import Tensor, nn

from common.channels.attention import HeadAttention, calling_projections, is_multihead
from common.channels.resize import CONVOLUTIONS, TRANSPOSED
from common.errors import UserError

ANY_CONVOLUTION = (*CONVOLUTIONS, *TRANSPOSED)
LAYERS = (*ANY_CONVOLUTION, nn.Linear)


@dataclass(frozen=True)
class Call:
    """One call of a module on one example, with the shapes of its input and output."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Number of elements of the input."""
        return prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Number of elements of the output."""
        return prod(self.output_shape)

    @property
    def positions(self) -> int:
        """Number of times that a convolution or linear layer uses each of its weights; 0 for any other module."""
        if not isinstance(self.module, LAYERS):
            return 0
        elements = self.inputs if isinstance(self.module, TRANSPOSED) else self.outputs
        return elements // self.module.weight.shape[0]

    @property
    def macs(self) -> int:
        """MACs of a convolution or linear layer; 0 for any other module."""
        return self.positions * self.module.weight.numel() if isinstance(self.module, LAYERS) else 0


def layer_macs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Count the MACs of each convolution and linear layer for one example, by module name, in order of execution.

    The projections of queries, keys and values are those of the attention module.

    Args:
        input_shape: Shape of one example without the batch dimension, e.g. (C, H, W).

    Raises:
        UserError: If the network does not accept this shape.
    """
    macs: dict[str, int] = {}
    for call in trace_calls(model, input_shape):
        if isinstance(call.module, LAYERS):
            macs[call.name] = macs.get(call.name, 0) + call.macs
        elif _has_projections(call.module):
            tokens = call.inputs // call.module.embed_dim
            macs[call.name] = macs.get(call.name, 0) + tokens * call.module.in_proj_weight.numel()
    return macs


def trace_calls(model: nn.Module, input_shape: Sequence[int]) -> list[Call]:
    """Run one example with :func:`run_example` and return every call of a module that has no children, or is a layer.

    A convolution or linear layer may have children: a padding module, a parametrization.
    """
    calls: list[Call] = []

    def record(name: str):
        def hook(module: nn.Module, inputs, output) -> None:
            output = output[0] if _has_projections(module) else output
            if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
                calls.append(Call(name, module, tuple(inputs[0].shape), tuple(output.shape)))

        return hook

    recorded = [(name, module) for name, module in model.named_modules() if is_layer(module)]
    handles = [module.register_forward_hook(record(name)) for name, module in recorded]
    try:
        run_example(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is a convolution, a linear layer or an attention with projections, or has no children."""
    return isinstance(module, LAYERS) or _has_projections(module) or not any(module.children())


def _has_projections(module: nn.Module) -> TypeGuard[HeadAttention | nn.MultiheadAttention]:
    """Return whether a module is an attention that projects queries, keys and values itself."""
    return isinstance(module, HeadAttention) or is_multihead(module)


def run_example(model: nn.Module, input_shape: Sequence[int]) -> None:
    """Run one example of zeros in eval mode without gradients, and restore every module's mode.

    input_shape: (C, H, W). Raises UserError if the network does not accept it.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _layers_of_attention(), calling_projections(model):
            model(zero_example(model, input_shape))
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"the network does not accept an example of shape {tuple(input_shape)}: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _layers_of_attention() -> Iterator[None]:
    """Let attention compute its projections as layers, not in one fused operation whose MACs nothing counts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def zero_example(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """Return one example (1, C, H, W) of zeros, with the device and type of the network's parameters."""
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros((1, *input_shape), device=parameter.device, dtype=parameter.dtype)
