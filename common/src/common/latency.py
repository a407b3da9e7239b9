"""``python -m common.latency``: latency of pruned networks compared with the dense network.

The pruned networks are read from files (``--checkpoint``), or built by pruning all layers of ``--arch`` or ``--model``
uniformly to ``--target-macs``, with widths that are multiples of ``--round-to``. Latency does not depend on the weights. The networks are
timed alternately (:mod:`common.timing`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli import Range, positive_int
from common.markdown import markdown_table, pad_table
from common.options import LATENCY_BATCHES, LATENCY_SECONDS, HardwareOptions
from common.runs import describe_environment
from common.settings import command, option, section, settings
from common.timed_networks import DENSE, TimedNetworks, open_networks
from common.timing import relative_text

if TYPE_CHECKING:
    from common.measure import LatencyTimes


@dataclass(frozen=True)
class LatencyGain:
    """Latency and MACs saved by one network at one batch size.

    Attributes:
        dense_ms: Median milliseconds per batch of the dense network.
        ms: Median milliseconds per batch of this network.
        relative: The network's time relative to the dense one's: :meth:`common.timing.Timing.record`.
        macs_saved: Fraction of the MACs, 1 - m'/m.
    """

    network: str
    batch: int
    dense_ms: float
    ms: float
    relative: Mapping[str, Any]
    macs_saved: float

    @property
    def latency_saved(self) -> float:
        """Fraction of the latency, 1 - t'/t."""
        return 1 - self.relative["ratio"]

    @property
    def ratio(self) -> float:
        """Saved latency over saved MACs, (1 - t'/t) / (1 - m'/m); nan if no MACs are saved."""
        return self.latency_saved / self.macs_saved if self.macs_saved else float("nan")


def latency_gains(measured: LatencyTimes, macs: Mapping[str, int]) -> list[LatencyGain]:
    """Compute the savings of all networks except ``dense``, by batch size.

    Args:
        measured: The times, relative to those of ``dense``.
        macs: MACs of each network.
    """
    dense = measured.milliseconds(DENSE)
    found = []
    for name in (one for one in macs if one != DENSE):
        relative, saved = measured.record(name), 1 - macs[name] / macs[DENSE]
        for batch, ms in measured.milliseconds(name).items():
            found.append(LatencyGain(name, int(batch), dense[batch], ms, relative[batch], saved))
    return found


def format_gains(found: Sequence[LatencyGain]) -> str:
    """Format latency and saved MACs as a Markdown table."""
    header = [
        "network",
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
    run: HardwareOptions = section(HardwareOptions)
    json: str | None = option(None, "file for the milliseconds of every repeat")


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
    measured = measure_latency(
        networks, shape, reference=DENSE, device=device, batch_sizes=settings.batch_size, seconds=settings.seconds
    )
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    print(pad_table(format_gains(latency_gains(measured, macs))), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, medians, interleaved with the dense network; "
        f"{describe_control(measured)}"
    )
    if settings.json:
        series = {
            batch: {name: [round(1000 * s, 4) for s in seconds] for name, seconds in timing.series.items()}
            for batch, timing in measured.timings.items()
        }
        record = {"milliseconds": series, "macs": macs, "environment": describe_environment(device)}
        write_json(settings.json, record)


def describe_control(measured: LatencyTimes) -> str:
    """Say how well the machine measures: the dense network's time relative to its own, in the same rounds."""
    parts = [
        f"batch {batch}: {100 * timing.control.value:.1f} ± {100 * timing.control.spread:.1f} %, {len(timing.series[DENSE])} rounds"
        for batch, timing in measured.timings.items()
    ]
    text = f"the dense network against itself: {'; '.join(parts)}"
    return f"{text}; {measured.disturbed}" if measured.disturbed else text


if __name__ == "__main__":
    sys.exit(main())
