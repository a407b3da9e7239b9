"""What each layer of a network computes and moves: operations, MACs, bytes and widths."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.channels.resize import CONVOLUTIONS, TRANSPOSED, width
from common.profiling.spans import SEPARATOR, observed, tensors_in

CONVOLUTION, LINEAR, NORMALIZATION, ACTIVATION, ADDITION = (
    "convolution",
    "linear",
    "batch norm",
    "activation",
    "addition",
)
POOLING, OTHER, BETWEEN = "pooling", "other", "between layers"
KINDS = (CONVOLUTION, LINEAR, NORMALIZATION, ACTIVATION, ADDITION, POOLING, OTHER, BETWEEN)
NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
WORDS = {  # parts of the names of functions and modules, the first that fits
    "conv": CONVOLUTION,
    "linear": LINEAR,
    "matmul": LINEAR,
    "norm": NORMALIZATION,
    "pool": POOLING,
    "mean": POOLING,
    "relu": ACTIVATION,
    "elu": ACTIVATION,
    "hardtanh": ACTIVATION,
    "sigmoid": ACTIVATION,
    "swish": ACTIVATION,
    "silu": ACTIVATION,
    "tanh": ACTIVATION,
    "softmax": ACTIVATION,
    "add": ADDITION,
}


@dataclass(frozen=True)
class LayerWork:
    """What a layer does in one pass of a batch.

    Attributes:
        kind: One of KINDS.
        widths: Channels read and produced, such as "16 x 11"; empty for other layers than convolutions and linear ones.
        macs: Multiply-accumulates of the batch.
        flops: Operations of the batch: two per MAC; of a layer without MACs, one per element that it writes (or reads, if these are more).
        bytes: Bytes of its inputs, weights and outputs; 0 if the output is a view of the input.
        calls: Number of calls in one pass.
    """

    kind: str
    widths: str
    macs: int
    flops: int
    bytes: int
    calls: int = 1

    @property
    def intensity(self) -> float:
        """Operations per byte; 0 if nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    def __add__(self, other: "LayerWork") -> "LayerWork":
        sums = [getattr(self, name) + getattr(other, name) for name in ("macs", "flops", "bytes", "calls")]
        return LayerWork(self.kind, self.widths, *sums)


@torch.no_grad()
def layer_work(model: nn.Module, batch: Tensor) -> dict[str, LayerWork]:
    """Return the work of every layer, and of every function between layers, by name, in order of execution.

    batch: (N, ...), on the device of the network.
    """
    found: dict[str, LayerWork] = {}
    counter = FlopCounterMode(display=False)
    counted = 0

    def begin() -> None:
        nonlocal counted
        counted = counter.get_total_flops()

    def end(name: str, module: nn.Module | None, inputs: tuple[Any, ...], output: Any) -> None:
        work = _work(name, module, inputs, output, counter.get_total_flops() - counted)
        found[name] = found[name] + work if name in found else work

    with counter, observed(model, begin, end):
        model(batch)
    return found


def _work(name: str, module: nn.Module | None, inputs: Any, output: Any, multiplied: int) -> LayerWork:
    kind = kind_of(name, module)
    read, written = tensors_in(inputs), tensors_in(output)
    if module is None and kind == OTHER and _is_view(read, written):
        return LayerWork(kind, "", 0, 0, 0)
    elements = max(_elements(read[:1]), _elements(written))
    weights = [*module.parameters(), *module.buffers()] if module is not None else []
    moved = sum(t.numel() * t.element_size() for t in [*read, *written, *weights])
    return LayerWork(kind, _widths(module), multiplied // 2, multiplied or elements, moved)


def kind_of(name: str, module: nn.Module | None) -> str:
    """Return the kind of a layer, or by its name that of a function between layers."""
    if isinstance(module, NORMALIZATIONS):
        return NORMALIZATION
    text = (name.rpartition(SEPARATOR)[2] if module is None else type(module).__name__).lower()
    return next((kind for part, kind in WORDS.items() if part in text), OTHER)


def _widths(module: nn.Module | None) -> str:
    if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        return ""
    return f"{width(module, 'in')} x {width(module, 'out')}"


def _elements(tensors: list[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _is_view(read: list[Tensor], written: list[Tensor]) -> bool:
    places = {t.untyped_storage().data_ptr() for t in read}
    return not written or all(t.untyped_storage().data_ptr() in places for t in written)
