"""The roofline of a machine (Williams et al. 2009): two measured constants that bound the speed of every layer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SIZE = 1536  # rows and columns of the matrix product: 7.2 GFLOP
COPIED = 2**27  # bytes of the copied tensor, more than the caches hold
LEAST, SECONDS = 3, 1.0  # repeats and seconds, at least, of either
ARITHMETIC, MEMORY = "arithmetic", "memory"


@dataclass(frozen=True)
class Machine:
    """Speed of a machine with the given threads.

    Attributes:
        gflops: 10^9 operations per second of a large float32 matrix product.
        gbytes: 10^9 bytes per second of a large copy, read and written.
    """

    gflops: float
    gbytes: float

    @property
    def balance(self) -> float:
        """Operations per byte above which arithmetic is the bound."""
        return self.gflops / self.gbytes

    def bound(self, intensity: float) -> str:
        """Return what bounds a layer of this intensity, in operations per byte."""
        return MEMORY if intensity < self.balance else ARITHMETIC

    def attainable(self, intensity: float) -> float:
        """Return the 10^9 operations per second that the roofline allows at this intensity."""
        return min(self.gflops, intensity * self.gbytes)


@torch.no_grad()
def measure_machine(device: torch.device | str = "cpu", synchronize: Callable[[], object] = lambda: None) -> Machine:
    """Measure both constants, in about two seconds: the fastest of several repeats."""
    a, b = torch.rand(2, SIZE, SIZE, device=device)
    product = torch.empty_like(a)
    multiply = _fastest(lambda: torch.mm(a, b, out=product), synchronize)
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    copy = _fastest(lambda: target.copy_(source), synchronize)
    return Machine(2 * SIZE**3 / multiply / 1e9, 2 * COPIED / copy / 1e9)


def _fastest(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Return the seconds of the fastest call."""
    call()
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS:
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
