"""Default rule: MACs of all convolutions and linear layers, modules or functions; half of torch's FlopCounterMode."""

from collections.abc import Sequence

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.cost.calls import run_example
from common.cost.rules.factors import Factors

COUNTED = ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm")
OTHER_ARITHMETIC = ("attention", "bmm", "addmv", "mv", "dot", "lstm", "gru", "rnn", "_fft", "cdist", "trilinear")


def count(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Return the MACs and the names of operations with MACs that are not counted, such as attention."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    counter, watcher = FlopCounterMode(display=False), _OtherArithmetic()
    with counter, watcher:
        run_example(model, input_shape)
    flops = {str(op): number for op, number in counter.get_flop_counts().get("Global", {}).items()}
    macs = sum(number for op, number in flops.items() if op in COUNTED) // 2
    return macs, tuple(sorted(watcher.seen))


def factors(module: nn.Module) -> Factors:
    """Return the factors of this rule, exact for networks whose convolutions and linear layers are all modules."""
    return Factors()


class _OtherArithmetic(TorchDispatchMode):
    """Collector of operations that multiply and accumulate but are neither convolutions nor linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        if any(part in name for part in OTHER_ARITHMETIC):
            self.seen.add(f"aten.{name}")
        return func(*args, **(kwargs or {}))
