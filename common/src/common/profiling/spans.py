"""Observe the layers of a forward pass, and the functions between them.

A layer is a convolution, a linear layer, an attention with its projections, or a module without children. Everything else that a network
computes with tensors is a function between layers: ``F.relu``, an addition, padding. Functions within a layer belong to the layer; the
others are named by the block that calls them, such as ``layer1.0: relu``.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from common.cost.calls import is_layer

Begin = Callable[[], None]  # () before a layer or function
End = Callable[[str, nn.Module | None, tuple[Any, ...], Any], None]  # (name, layer or None, inputs, output) after it
SEPARATOR = ": "  # between a block and the function that it calls


def layers_and_blocks(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Return the layers of a network by name, none of which contains another one, and the modules that contain layers."""
    layers: dict[str, nn.Module] = {}
    blocks: dict[str, nn.Module] = {}
    inner: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inner:
            (layers if is_layer(module) else blocks)[name or type(module).__name__] = module
            inner.update(module.modules() if is_layer(module) else ())
    blocks.pop(type(model).__name__, None)  # the network itself
    return layers, blocks


@contextmanager
def observed(model: nn.Module, begin: Begin, end: End) -> Iterator[None]:
    """Call ``begin`` and ``end`` around every layer, and every function between layers, of the passes within this context."""
    functions = _Functions(begin, end)
    layers, blocks = layers_and_blocks(model)
    with ExitStack() as stack:
        for name, module in layers.items():
            for handle in _layer_hooks(name, module, functions):
                stack.callback(handle.remove)
        for name, module in blocks.items():
            for handle in _block_hooks(name, module, functions):
                stack.callback(handle.remove)
        stack.callback(functions.stop)
        functions.start()
        yield


def _layer_hooks(name: str, module: nn.Module, functions: "_Functions") -> tuple[RemovableHandle, RemovableHandle]:
    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        functions.stop()
        functions.begin()

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        functions.end(name, module, inputs, output)
        functions.start()

    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


def _block_hooks(name: str, module: nn.Module, functions: "_Functions") -> tuple[RemovableHandle, RemovableHandle]:
    return (
        module.register_forward_pre_hook(lambda module, inputs: functions.blocks.append(name + SEPARATOR)),
        module.register_forward_hook(lambda module, inputs, output: functions.leave()),
    )


class _Functions(TorchFunctionMode):
    """Observe functions while it is started: outside layers, which it would slow down.

    torch does not call it again for what such a function calls itself.
    """

    def __init__(self, begin: Begin, end: End) -> None:
        super().__init__()
        self.begin, self.end = begin, end
        self.started = False
        self.blocks = [""]  # names of the blocks that are being computed, the innermost last

    def start(self) -> None:
        """Observe functions from now on."""
        if not self.started:
            self.__enter__()
            self.started = True

    def stop(self) -> None:
        """Observe no functions from now on."""
        if self.started:
            self.__exit__(None, None, None)
            self.started = False

    def leave(self) -> None:
        """Leave a block."""
        self.blocks.pop()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":  # an attribute, such as the shape
            return func(*args, **(kwargs or {}))
        self.begin()
        output = func(*args, **(kwargs or {}))
        self.end(self.blocks[-1] + name.strip("_"), None, (*args, kwargs or {}), output)
        return output


def tensors_in(values: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, also in lists, tuples and dictionaries."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [found for value in values for found in tensors_in(value)] if isinstance(values, list | tuple) else []
