"""Time the layers of several networks, in passes that alternate."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.layers import to_device
from common.profiling.spans import observed
from common.profiling.work import BETWEEN, KINDS, LayerWork, layer_work
from common.timing import Timing, time_calls

TIMED = " with hooks"  # suffix of the name of a call whose layers are timed


@dataclass(frozen=True)
class NetworkTimes:
    """Seconds of a network's layers.

    Attributes:
        work: What each layer does, by name.
        seconds: Median seconds per pass of each layer, by name.
        between: Seconds per pass between layers: what the layers leave of a pass, minus what the hooks take there.
        whole: Median seconds of a pass without hooks.
        hooks: Seconds that a pass with hooks takes longer than one without, in the median; noise can make it negative.
    """

    work: Mapping[str, LayerWork]
    seconds: Mapping[str, float]
    between: float
    whole: float
    hooks: float

    @property
    def total(self) -> float:
        """Seconds of all layers, and between them."""
        return sum(self.seconds.values()) + self.between

    @property
    def macs(self) -> int:
        """MACs of the batch, in layers and functions."""
        return sum(work.macs for work in self.work.values())

    def kinds(self) -> dict[str, float]:
        """Return the seconds of each kind of layer that the network has."""
        found = dict.fromkeys(KINDS, 0.0) | {BETWEEN: self.between}
        for name, seconds in self.seconds.items():
            found[self.work[name].kind] += seconds
        return {kind: seconds for kind, seconds in found.items() if seconds}


@dataclass
class LayerTimer:
    """A network whose passes are timed layer by layer. synchronize: waits for a device that works on its own."""

    model: nn.Module
    synchronize: Callable[[], object] = lambda: None
    passes: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # seconds of all, and of each layer

    def __call__(self, batch: Tensor) -> None:
        """Run one pass and append its times."""
        times: dict[str, float] = {}
        began = 0.0

        def begin() -> None:
            nonlocal began
            self.synchronize()
            began = time.perf_counter()

        def end(name: str, *_: Any) -> None:
            self.synchronize()
            times[name] = times.get(name, 0.0) + time.perf_counter() - began

        with observed(self.model, begin, end):
            self.synchronize()
            first = time.perf_counter()
            self.model(batch)
            self.synchronize()
            self.passes.append((time.perf_counter() - first, times))


class _Nothing(nn.Module):
    """A network of layers and functions that do nothing, in which the hooks alone take time."""

    def __init__(self, calls: int = 100) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(calls))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).detach()
        return x


@torch.inference_mode()
def seconds_of_hooks(device: torch.device | str = "cpu", synchronize: Callable[[], object] = lambda: None) -> float:
    """Return the seconds between two layers that do nothing: the smallest of several passes."""
    network = _Nothing()
    timer = LayerTimer(network, synchronize)
    for _ in range(10):
        timer(torch.zeros(1, device=device))
    return min(total - sum(times.values()) for total, times in timer.passes) / (2 * len(network.layers))


def time_layers(
    models: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    batch_size: int,
    seconds: float,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, NetworkTimes], Timing]:
    """Time the layers of networks against each other, and the networks as they are (:func:`common.timing.time_calls`).

    Args:
        models: The networks by name, the dense one first.
        input_shape: Shape of one example.
        seconds: Longest duration.

    Returns:
        The times of each network, and those of the passes without hooks.
    """
    device = torch.device(device)
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    batch = torch.randn(batch_size, *input_shape, device=device)
    if batch.dim() == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    work = {name: layer_work(to_device(model, device).eval(), batch) for name, model in models.items()}
    timers = {name: LayerTimer(model, synchronize) for name, model in models.items()}
    calls: dict[str, Callable[[], object]] = {name: partial(model, batch) for name, model in models.items()}
    calls |= {name + TIMED: partial(timer, batch) for name, timer in timers.items()}
    with torch.inference_mode():
        timing = time_calls(calls, next(iter(models)), seconds=seconds, synchronize=synchronize)
    gap = seconds_of_hooks(device, synchronize)
    found = {name: _network_times(work[name], timer.passes, timing.series[name], gap) for name, timer in timers.items()}
    return found, timing


def _network_times(
    work: Mapping[str, LayerWork], passes: Sequence[tuple[float, dict[str, float]]], plain: Sequence[float], gap: float
) -> NetworkTimes:
    """Take medians over as many of the last passes as there are rounds: those of the warm-up are before them."""
    passes = passes[-len(plain) :]
    whole = statistics.median(plain)
    hooks = statistics.median(total for total, _ in passes) - whole
    seconds = {name: statistics.median(times.get(name, 0.0) for _, times in passes) for name in work}
    outside = statistics.median(total - sum(times.values()) for total, times in passes)
    outside -= gap * sum(layer.calls for layer in work.values())
    return NetworkTimes(work, seconds, max(0.0, outside), whole, hooks)
