"""``python -m common.latency``: latency of pruned networks compared with the dense network, in one or more runtimes.

The pruned networks are read from files (``--checkpoint``), or built by pruning all layers of ``--arch`` or ``--model``
uniformly to ``--target-macs``, with widths that are multiples of ``--round-to``. Latency does not depend on the weights. The networks are
timed alternately (:mod:`common.timing`), those of all runtimes in the same rounds. Files of int8 networks (.onnx) run in ONNX Runtime and
OpenVINO only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli import Range, positive_int, shorten
from common.errors import UserError, one_line
from common.markdown import markdown_table, pad_table
from common.options import LATENCY_BATCHES, LATENCY_SECONDS, HardwareOptions
from common.runs import describe_environment
from common.runtimes import RUNTIMES, check_runtime
from common.settings import command, option, section, settings
from common.timed_networks import DENSE, TimedNetworks, open_networks
from common.timing import relative_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from common.measure import LatencyTimes

TORCH = "torch"  # the runtime of networks as they are


@dataclass(frozen=True)
class LatencyGain:
    """Latency and MACs saved by one network at one batch size.

    Attributes:
        dense_ms: Median milliseconds per batch of the dense network in the same runtime.
        ms: Median milliseconds per batch of this network.
        relative: The network's time relative to the dense one's in the same runtime: :meth:`common.timing.Timing.record`.
        macs_saved: Fraction of the MACs, 1 - m'/m.
        runtime: Name of the runtime.
    """

    network: str
    batch: int
    dense_ms: float
    ms: float
    relative: Mapping[str, Any]
    macs_saved: float
    runtime: str = TORCH

    @property
    def latency_saved(self) -> float:
        """Fraction of the latency, 1 - t'/t."""
        return 1 - self.relative["ratio"]

    @property
    def ratio(self) -> float:
        """Saved latency over saved MACs, (1 - t'/t) / (1 - m'/m); nan if no MACs are saved."""
        return self.latency_saved / self.macs_saved if self.macs_saved else float("nan")


def series_name(network: str, runtime: str) -> str:
    """Return the name of a network in a runtime, of a measurement and in its JSON file."""
    return network if runtime == TORCH else f"{network}, {runtime}"


def latency_gains(
    measured: LatencyTimes, macs: Mapping[str, int], timed: Sequence[tuple[str, str]] | None = None
) -> list[LatencyGain]:
    """Compute the savings of all networks except ``dense``, by batch size, compared with the dense network in the same runtime.

    Args:
        measured: The times by :func:`series_name`.
        macs: MACs of each network.
        timed: What was timed, as (network, runtime); default: all networks in PyTorch.
    """
    found = []
    for name, runtime in timed or [(name, TORCH) for name in macs]:
        if name == DENSE:
            continue
        series, dense = series_name(name, runtime), series_name(DENSE, runtime)
        relative, saved = measured.record(series, dense), 1 - macs[name] / macs[DENSE]
        dense_ms = measured.milliseconds(dense)
        for batch, ms in measured.milliseconds(series).items():
            found.append(LatencyGain(name, int(batch), dense_ms[batch], ms, relative[batch], saved, runtime))
    return found


def format_gains(found: Sequence[LatencyGain]) -> str:
    """Format latency and saved MACs as a Markdown table, with the runtimes if there is another one than PyTorch."""
    several = any(gain.runtime != TORCH for gain in found)
    header = [
        "network",
        *["runtime"] * several,
        "batch",
        "dense (ms)",
        "pruned (ms)",
        "latency vs dense (%)",
        "MACs saved (%)",
        "latency/MACs saved",
    ]
    return markdown_table(
        header,
        [
            [
                g.network,
                *[g.runtime] * several,
                g.batch,
                f"{g.dense_ms:.2f}",
                f"{g.ms:.2f}",
                relative_text(g.relative),
                f"{100 * g.macs_saved:.1f}",
                "" if g.relative.get("disturbed") else f"{g.ratio:.2f}",
            ]
            for g in found
        ],
    )


@settings
class Latency(TimedNetworks):
    """Measure the latency of pruned networks and compare saved latency with saved MACs."""

    batch_size: list[int] = option(list(LATENCY_BATCHES), "images per batch", type=positive_int)
    seconds: float = option(
        LATENCY_SECONDS,
        "longest duration of the measurement; it ends earlier if it is precise",
        type=Range(float, 0.1, 86_400),
    )
    runtime: list[str] = option(
        [TORCH],
        "runtimes in which all networks are timed, each relative to the dense network in the same runtime: torch (eager), compile "
        "(torch.compile), onnxruntime, openvino",
        choices=tuple(RUNTIMES),
    )
    run: HardwareOptions = section(HardwareOptions)
    json: str | None = option(None, "file for the milliseconds of every repeat")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.runtime:
            check_runtime(name)


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.latency") -> int:
    return command(Latency, latency, argv, prog)


def latency(settings: Latency) -> None:
    """Build or read the networks, time them alternately, and print the savings."""
    import torch

    from common.cost import count_cost
    from common.device import choose_device, set_threads
    from common.measure import measure_latency

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    networks, shape = open_networks(settings)
    timed = _in_runtimes(networks, settings.runtime, shape, device)
    series = {series_name(*key): network for key, network in timed.items()}
    measured = measure_latency(
        series,
        shape,
        reference=next(iter(series)),
        device=device,
        batch_sizes=settings.batch_size,
        seconds=settings.seconds,
    )
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    print(pad_table(format_gains(latency_gains(measured, macs, list(timed)))), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, medians, interleaved with the dense network; "
        f"{describe_control(measured)}"
    )
    if len(settings.runtime) > 1:
        print(f"the dense network takes, in milliseconds, {describe_dense(measured, settings.runtime)}")
    if settings.json:
        milliseconds = {
            batch: {name: [round(1000 * s, 4) for s in seconds] for name, seconds in timing.series.items()}
            for batch, timing in measured.timings.items()
        }
        record = {"milliseconds": milliseconds, "macs": macs, "environment": describe_environment(device)}
        write_json(settings.json, record)


def _in_runtimes(
    networks: Mapping[str, nn.Module], runtimes: Sequence[str], shape: Sequence[int], device: torch.device
) -> dict[tuple[str, str], nn.Module]:
    """Return {(name, runtime): network}, the dense one in the first runtime first, without those that a runtime cannot run.

    Raises UserError if a runtime fails, the dense network cannot run in it, or a network can run in none.
    """
    import torch

    from common.runtimes import network_in

    found = {}
    for runtime in dict.fromkeys(runtimes):
        if device.type != "cpu" and RUNTIMES[runtime].reads_onnx:
            raise UserError(f"--runtime {runtime}: it is timed on the CPU; add --device cpu")
        for name, model in networks.items():
            network = network_in(runtime, model, shape)
            if network is None:
                continue
            try:
                with torch.inference_mode():
                    network(torch.zeros(1, *shape))
            except Exception as error:  # of a compiler or a runtime, which have many kinds
                raise UserError(f"--runtime {runtime}: {name}: {shorten(one_line(error), 200)}") from error
            found[name, runtime] = network
        if (DENSE, runtime) not in found:
            raise UserError(
                f"--runtime {runtime}: the dense network is an ONNX file, which it cannot run; give another --dense"
            )
    lost = [name for name in networks if not any((name, runtime) in found for runtime in runtimes)]
    if lost:
        raise UserError(f"{lost[0]}: an ONNX file; add --runtime onnxruntime")
    return found


def describe_dense(measured: LatencyTimes, runtimes: Sequence[str]) -> str:
    """Return the dense network's milliseconds in each runtime, with which runtimes are compared."""
    times = {runtime: measured.milliseconds(series_name(DENSE, runtime)) for runtime in dict.fromkeys(runtimes)}
    parts = [
        f"{', '.join(f'{ms:.2f} (batch {batch})' for batch, ms in each.items())} in {name}"
        for name, each in times.items()
    ]
    return "; ".join(parts)


def describe_control(measured: LatencyTimes) -> str:
    """Say how well the machine measures: the dense network's time relative to its own, in the same rounds."""
    parts = [
        f"batch {batch}: {100 * timing.control.value:.1f} ± {100 * timing.control.spread:.1f} %, {len(timing.series[timing.reference])} rounds"
        for batch, timing in measured.timings.items()
    ]
    text = f"the dense network against itself: {'; '.join(parts)}"
    return f"{text}; {measured.disturbed}" if measured.disturbed else text


if __name__ == "__main__":
    sys.exit(main())
