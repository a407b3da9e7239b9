"""Layer calls of a network that torch.fx cannot trace, recorded by hooks in a separate forward pass for each layer."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.reconstruction.layers_in_order import BATCH_NORMS, BatchNorm, LayerCall, match_parameters

ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")


class HookedNetwork:
    """Any network, with the interface of TracedNetwork; its forward pass is not paused but ends after the requested layers.

    Attributes:
        order: The named layers, in the order in which their calls are complete.
    """

    def __init__(self, network: nn.Module, names: Collection[str], example: Tensor) -> None:
        self.network = network
        self.enters_sum: dict[str, bool] = {}  # for layers that are called once, from the example
        calls = self._calls(example[:1], names)
        called = [call.name for call in calls]
        self.order = list(dict.fromkeys(called))
        self.enters_sum = {call.name: call.added is not None for call in calls if called.count(call.name) == 1}

    def paused_bytes(self, names: Collection[str]) -> float:
        """Return infinity: a forward pass cannot be paused."""
        return math.inf

    def layers_in_order(self, batch: Tensor, names: Collection[str]) -> Iterator[LayerCall]:
        """Return the calls of the named layers from one forward pass, which ends once a layer that is called once is complete."""
        return iter(self._calls(batch, names))

    def _calls(self, batch: Tensor, names: Collection[str]) -> list[LayerCall]:
        calls: list[LayerCall] = []
        in_flight: list[tuple[Tensor, LayerCall]] = []  # outputs, after the normalization layers so far

        def complete(call: LayerCall) -> None:
            calls.append(call)
            if self.enters_sum.get(call.name) is (call.added is not None):
                raise _CallsComplete

        def layer_hook(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                call = LayerCall(name, layer, inputs[0].clone())  # later layers may work in place
                in_flight.append((output, call))
                complete(call)

            return hook

        def batch_norm_hook(batch_norm: BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for place, (tensor, call) in enumerate(in_flight):
                if inputs[0] is tensor:
                    call.batch_norms += (batch_norm,)
                    in_flight[place] = output, call

        def on_sum(one: Tensor, other: Tensor) -> None:
            summed = [entry for entry in in_flight if entry[0] is one or entry[0] is other]
            in_flight[:] = [entry for entry in in_flight if not (entry[0] is one or entry[0] is other)]
            for tensor, call in summed:
                calls.remove(call)  # complete only now, after the layers called since
                call.added = (other if tensor is one else one).clone()
                complete(call)

        handles = [self.network.get_submodule(name).register_forward_hook(layer_hook(name)) for name in names]
        batch_norms = [module for module in self.network.modules() if isinstance(module, BATCH_NORMS)]
        handles += [batch_norm.register_forward_hook(batch_norm_hook) for batch_norm in batch_norms]
        try:
            with _Additions(on_sum):
                self.network(match_parameters(batch, self.network))
        except _CallsComplete:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return calls


class _Additions(TorchFunctionMode):
    """Call ``on_sum`` before every addition of two tensors of equal shape."""

    def __init__(self, on_sum: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.on_sum = on_sum

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ADDITIONS and len(args) == 2 and not kwargs:
            one, other = args
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
                self.on_sum(one, other)
        return func(*args, **(kwargs or {}))


class _CallsComplete(Exception):
    """The calls of the requested layer are complete."""
