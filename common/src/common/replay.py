"""Repeat a network's forward pass from a layer onwards: the modules before it return their recorded outputs.

Only modules without children (and attentions) are recorded; functions between them run again, which costs little. The outputs are
bit-identical to those of a complete forward pass.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.channels.attention import ATTENTIONS


class Replay:
    """Recorded outputs of a network in eval mode, for one batch at a time.

    Args:
        model: The network; it must not be modified while this is used, except by hooks within :meth:`from_layers`.
        example: Inputs of a few examples, by which the order of the calls is determined.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        self._names = {
            name: module for name, module in model.named_modules() if isinstance(module, ATTENTIONS) or _is_leaf(module)
        }
        inside = tuple(f"{name}." for name, module in self._names.items() if isinstance(module, ATTENTIONS))
        self._names = {name: module for name, module in self._names.items() if not name.startswith(inside or ("\0",))}
        self._calls: list[str] = []
        self._outputs: list[Any] = []
        self._changed: set[int] = set()  # calls whose outputs are changed in place by a later operation
        with self._each_call(self._record):
            model(example)
        self._changed = {i for i, (output, version) in enumerate(self._outputs) if _versions(output) != version}
        self.order = list(self._calls)

    @torch.no_grad()
    def record(self, inputs: Tensor) -> Any:
        """Run the network on a batch, keep the outputs of its modules, and return the network's."""
        self._calls, self._outputs = [], []
        with self._each_call(self._record):
            return self.model(inputs)

    @torch.no_grad()
    def from_layers(self, inputs: Tensor, layers: Iterable[str]) -> Any:
        """Return the network's outputs for the recorded batch; all modules from the first call of these layers on run again."""
        wanted = {name for layer in layers for name in (layer, *self._enclosing(layer))}
        first = min((i for i, name in enumerate(self.order) if name in wanted), default=0)
        known = wanted & set(self.order)
        place = 0

        def replayed(name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal place
            at, place = place, place + 1
            if at >= first or not known or self._calls[at] != name:
                return forward(*args, **kwargs)
            output = self._outputs[at][0]
            return _cloned(output) if at in self._changed else output

        with self._each_call(replayed):
            return self.model(inputs)

    def _record(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        kept = _cloned(output) if len(self._calls) in self._changed else output
        self._calls.append(name)
        self._outputs.append((kept, _versions(kept)))
        return output

    def _enclosing(self, layer: str) -> list[str]:
        """Return the recorded module that contains a layer, such as the attention of an output projection."""
        return [name for name in self._names if layer.startswith(f"{name}.")]

    @contextmanager
    def _each_call(self, instead: Callable[..., Any]) -> Iterator[None]:
        """Within this context, ``instead(name, forward, *args)`` is called in place of every recorded module's forward pass."""
        patched: list[tuple[nn.Module, Any]] = []
        try:
            for name, module in self._names.items():
                patched.append((module, module.__dict__.get("forward")))
                forward = module.forward
                module.forward = _bound(instead, name, forward)  # type: ignore[method-assign]
            with torch.no_grad():
                yield
        finally:
            for module, own in reversed(patched):
                if own is None:
                    del module.forward
                else:
                    module.forward = own


def _bound(instead: Callable[..., Any], name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: instead(name, forward, *args, **kwargs)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, (tuple, list)) else []


def _versions(output: Any) -> list[int]:
    return [tensor._version for tensor in _tensors(output)]


def _cloned(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(map(_cloned, output)) if type(output) in (tuple, list) else output
