"""What a forward shows of the layers that are to be solved: input, output, and what is added to the output behind a norm."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_preserving_id.activations import eval_mode

ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(eq=False)
class Seen:
    """One call of a layer. added: what the output is added to, if it is, in the shape of the output; scale: the factor per
    channel of the norms in between, (C,), 1 where there is none."""

    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor
    added: Tensor | None = None
    norms: list[nn.Module] = field(default_factory=list)

    @property
    def scale(self) -> Tensor:
        width = self.output.shape[1] if self.output.dim() == 4 else self.output.shape[-1]
        scale = torch.ones(width, device=self.output.device, dtype=self.output.dtype)
        for norm in self.norms:
            deviation = torch.sqrt(norm.running_var + norm.eps)
            scale = scale * (deviation.reciprocal() if norm.weight is None else norm.weight / deviation)
        return scale

    def again(self) -> Tensor:
        """What the layer and the norms behind it give now, on the same input; no hook is called."""
        x = self.layer.forward(self.input)
        for norm in self.norms:
            x = norm.forward(x)
        return x


@dataclass(frozen=True)
class Plan:
    """order: the layers as they are seen, which is at the sum for those that enter one; sums: these; bytes: the largest
    that one example needs at a layer, input and output; once: whether every layer is called exactly once."""

    order: tuple[str, ...]
    sums: frozenset[str]
    bytes: int
    once: bool


@torch.no_grad()
def plan(model: nn.Module, names: Iterable[str], example_input: Tensor) -> Plan:
    """Which of the layers enter a sum, and in which order they are seen; from one forward of one example."""
    sight = _Sight(model, {name: model.get_submodule(name) for name in names}, None)
    with sight.hooked():
        sight.forward(example_input[:1], lambda seen: None)
    sums = frozenset(name for kind, name in sight.events if kind == "sum")
    order = [name for kind, name in sight.events if kind == "sum" or name not in sums]
    calls = [name for kind, name in sight.events if kind == "call"]
    once = len(calls) == len(set(calls)) and len(order) == len(set(order)) == len(sight.layers)
    return Plan(tuple(dict.fromkeys(order)), sums, sight.largest, once)


@contextmanager
def watching(
    model: nn.Module, names: Sequence[str], sums: Iterable[str], redo: bool = False
) -> Iterator[Callable[[Tensor, Callable[[Seen], None]], None]]:
    """Yields ``forward(batch, tell)``: an eval-mode forward that tells of every named layer as soon as all of it is known.

    redo: when ``tell`` returns, the layer is computed again, and the forward goes on with what it gives then. May be called
    from several threads, one at a time.
    """
    sight = _Sight(model, {name: model.get_submodule(name) for name in names}, frozenset(sums), redo)
    with sight.hooked():
        yield sight.forward


class _Sight:
    """Follows outputs of the layers through batch norms to the sum that they enter. ``sums`` None: finds out which do."""

    def __init__(
        self, model: nn.Module, layers: dict[str, nn.Module], sums: frozenset[str] | None, redo: bool = False
    ) -> None:
        self.model, self.layers, self.sums, self.redo = model, layers, sums, redo
        self.events: list[tuple[str, str]] = []
        self.largest = 0
        self.here = threading.local()  # tell; carried: [(tensor, Seen)] on the way to a sum

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._layer_hook(name)) for name, layer in self.layers.items()]
        handles += [
            module.register_forward_hook(self._norm) for module in self.model.modules() if isinstance(module, NORMS)
        ]
        try:
            with eval_mode(self.model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def forward(self, batch: Tensor, tell: Callable[[Seen], None]) -> None:
        self.here.tell, self.here.carried = tell, []
        parameter = next(self.model.parameters())
        with _Sums(self):
            self.model(batch.to(parameter.device, parameter.dtype))

    def _layer_hook(self, name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            seen = Seen(name, module, inputs[0], output)
            if self.sums is None:
                self.events.append(("call", name))
                self.largest = max(self.largest, (inputs[0].numel() + output.numel()) * output.element_size())
            if self.sums is None or name in self.sums:
                seen.input, seen.output = inputs[0].clone(), output.clone()  # the way to the sum may work in place
                self.here.carried.append((output, seen))
                return None
            self.here.tell(seen)
            return seen.again() if self.redo else None

        return hook

    def _norm(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for place, (tensor, seen) in enumerate(self.here.carried):
            if inputs[0] is tensor:
                seen.norms.append(module)
                self.here.carried[place] = (output, seen)

    def sum(self, one: Tensor, other: Tensor) -> None:
        """Two tensors of one shape are about to be added."""
        for tensor, seen in list(self.here.carried):
            if tensor is not one and tensor is not other:
                continue
            self.here.carried = [entry for entry in self.here.carried if entry[1] is not seen]
            if self.sums is None:
                self.events.append(("sum", seen.name))
                continue
            seen.added = (other if tensor is one else one).clone()
            self.here.tell(seen)
            if self.redo:
                tensor.copy_(seen.again())


class _Sums(TorchFunctionMode):
    """Sees every addition of two tensors of equal shape."""

    def __init__(self, sight: _Sight) -> None:
        super().__init__()
        self.sight = sight

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ADDITIONS and len(args) >= 2 and self.sight.here.carried:
            one, other = args[:2]
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
                self.sight.sum(one, other)
        return function(*args, **(kwargs or {}))
