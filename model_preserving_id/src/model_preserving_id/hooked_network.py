"""The layers of a network that torch.fx cannot trace: hooks see them, in a forward pass of its own for each layer."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_preserving_id.layers_in_order import NORMS, LayerCall, Norm, as_parameters

ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")


class HookedNetwork:
    """Any network, with the methods of a TracedNetwork; its forward pass is not paused, but ends behind the wanted layer.

    Attributes:
        order: The named layers in the order in which all of them is known.
        paused_bytes: Infinity.
    """

    paused_bytes = math.inf

    def __init__(self, network: nn.Module, names: Collection[str], example: Tensor) -> None:
        self.network = network
        self.enters_sum: dict[str, bool] = {}  # of layers that are called once; known from the example
        calls = self._calls(example[:1], names)
        called = [call.name for call in calls]
        self.order = list(dict.fromkeys(called))
        self.enters_sum = {call.name: call.added is not None for call in calls if called.count(call.name) == 1}

    def layers_in_order(self, batch: Tensor, wanted: Collection[str]) -> Iterator[LayerCall]:
        """The calls of the wanted layers, from one forward pass; it ends where all is known of a layer that is called once."""
        return iter(self._calls(batch, wanted))

    def _calls(self, batch: Tensor, wanted: Collection[str]) -> list[LayerCall]:
        calls: list[LayerCall] = []
        on_their_way: list[tuple[Tensor, LayerCall]] = []  # what an output has become behind norms

        def know(call: LayerCall) -> None:
            calls.append(call)
            if self.enters_sum.get(call.name) is (call.added is not None):
                raise _Enough

        def layer_hook(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                call = LayerCall(name, layer, inputs[0].clone())  # what runs after it may work in place
                on_their_way.append((output, call))
                know(call)

            return hook

        def norm_hook(norm: Norm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for place, (tensor, call) in enumerate(on_their_way):
                if inputs[0] is tensor:
                    call.norms += (norm,)
                    on_their_way[place] = output, call

        def at_sum(one: Tensor, other: Tensor) -> None:
            summed = [entry for entry in on_their_way if entry[0] is one or entry[0] is other]
            on_their_way[:] = [entry for entry in on_their_way if not (entry[0] is one or entry[0] is other)]
            for tensor, call in summed:
                calls.remove(call)  # it is known here, after the layers that were called since
                call.added = (other if tensor is one else one).clone()
                know(call)

        handles = [self.network.get_submodule(name).register_forward_hook(layer_hook(name)) for name in wanted]
        norms = [module for module in self.network.modules() if isinstance(module, NORMS)]
        handles += [norm.register_forward_hook(norm_hook) for norm in norms]
        try:
            with _Additions(at_sum):
                self.network(as_parameters(batch, self.network))
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return calls


class _Additions(TorchFunctionMode):
    """Calls ``at_sum`` before every addition of two tensors of equal shape."""

    def __init__(self, at_sum: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.at_sum = at_sum

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ADDITIONS and len(args) == 2 and not kwargs:
            one, other = args
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
                self.at_sum(one, other)
        return func(*args, **(kwargs or {}))


class _Enough(Exception):
    """All is known of the wanted layer."""
