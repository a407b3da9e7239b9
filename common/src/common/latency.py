"""``python -m common.latency``: latency of pruned networks compared with the dense network.

The pruned networks are read from files (``--checkpoint``), or built by pruning all layers of ``--arch`` uniformly to
``--target-macs``, with widths that are multiples of ``--round-to``. Latency does not depend on the weights. The networks are
timed alternately.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import write_json
from common.cli import ROUNDING, TARGET_MACS, Range, positive_int
from common.errors import UserError
from common.markdown import markdown_table, pad_table
from common.options import LATENCY_BATCHES, LATENCY_REPEATS, HardwareOptions
from common.runs import describe_environment
from common.settings import command, option, section, settings

if TYPE_CHECKING:
    from torch import nn

DENSE = "dense"
DENSE_LIMIT = 250_000_000  # parameters of a dense network that is built from the architecture named in a file


@dataclass(frozen=True)
class LatencyGain:
    """Latency and MACs saved by one network at one batch size.

    Attributes:
        dense_ms: Median milliseconds per batch of the dense network.
        ms: Median milliseconds per batch of this network.
        latency_saved: Fraction of the latency, 1 - t'/t.
        macs_saved: Fraction of the MACs, 1 - m'/m.
    """

    network: str
    batch: int
    dense_ms: float
    ms: float
    latency_saved: float
    macs_saved: float

    @property
    def ratio(self) -> float:
        """Saved latency over saved MACs, (1 - t'/t) / (1 - m'/m); nan if no MACs are saved."""
        return self.latency_saved / self.macs_saved if self.macs_saved else float("nan")


def uniform_network(arch: str, target_macs: float, round_to: int = 1) -> nn.Module:
    """Build a registered network pruned uniformly to at most ``target_macs`` of its MACs, widths multiples of ``round_to``."""
    import torch

    from common.channels import channel_groups, keep_channels, top_channels
    from common.cost import WidthCost
    from common.models import create_model, input_shape
    from common.target import Target, uniform_widths

    model = create_model(arch).eval()
    shape = input_shape(model)
    example = torch.zeros(1, *shape)
    groups = channel_groups(model, example)
    widths = uniform_widths(groups, WidthCost(model, shape, groups), Target(target_macs), round_to, exact=False)
    equal = {g.name: top_channels([0] * g.size, widths[g.name], conv_groups=g.conv_groups) for g in groups}
    return keep_channels(model, example, equal)


def latency_gains(series: Mapping[str, Mapping[str, Sequence[float]]], macs: Mapping[str, int]) -> list[LatencyGain]:
    """Compute the savings of all networks except ``dense``, by batch size.

    Args:
        series: Milliseconds, as returned by :func:`common.measure.measure_latency_series`.
        macs: MACs of each network.
    """
    medians = {name: {b: statistics.median(v) for b, v in by_batch.items()} for name, by_batch in series.items()}
    found = []
    for name in (one for one in series if one != DENSE):
        for batch, ms in medians[name].items():
            dense = medians[DENSE][batch]
            found.append(LatencyGain(name, int(batch), dense, ms, 1 - ms / dense, 1 - macs[name] / macs[DENSE]))
    return found


def format_gains(found: Sequence[LatencyGain]) -> str:
    """Format saved latency and saved MACs as a Markdown table."""
    header = [
        "network",
        "batch",
        "dense (ms)",
        "pruned (ms)",
        "latency saved (%)",
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
                f"{100 * g.latency_saved:.1f}",
                f"{100 * g.macs_saved:.1f}",
                f"{g.ratio:.2f}",
            ]
            for g in found
        ],
    )


@settings
class Latency:
    """Measure the latency of pruned networks and compare saved latency with saved MACs."""

    checkpoint: list[str] = option([], "files of compressed networks of one architecture")
    dense: str | None = option(None, "file of the dense network; built from the architecture in the files if not given")
    arch: str | None = option(None, "registered network to prune uniformly, instead of files")
    target_macs: float = option(0.5, "fraction of the MACs to keep (--arch only)", type=TARGET_MACS)
    round_to: list[int] = option([1, 8], "layer widths are multiples of these numbers (--arch only)", type=ROUNDING)
    batch_size: list[int] = option(list(LATENCY_BATCHES), "images per batch", type=positive_int)
    repeats: int = option(LATENCY_REPEATS, "repeats, of which the median is reported", type=Range(int, 1, 10_000))
    run: HardwareOptions = section(HardwareOptions)
    json: str | None = option(None, "file for the milliseconds of every repeat")

    def __post_init__(self) -> None:
        if bool(self.checkpoint) == bool(self.arch):
            raise UserError("--checkpoint, --arch: exactly one is required; give --checkpoint FILE or --arch NAME")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Latency, latency, argv, "python -m common.latency")


def latency(settings: Latency) -> None:
    """Build or read the networks, time them alternately, and print the savings."""
    import torch

    from common.cost import count_cost
    from common.device import choose_device, set_threads
    from common.measure import measure_latency_series
    from common.models import input_shape

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    networks = _networks(settings)
    shape = input_shape(networks[DENSE])
    series = measure_latency_series(
        networks, shape, device=device, batch_sizes=settings.batch_size, repeats=settings.repeats
    )
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    found = latency_gains(series, macs)
    print(pad_table(format_gains(found)), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, median of {settings.repeats} repeats, interleaved with the dense network"
    )
    if settings.json:
        write_json(settings.json, {"milliseconds": series, "macs": macs, "environment": describe_environment(device)})


def _networks(settings: Latency) -> dict[str, nn.Module]:
    """Return {name: network}, the dense one first."""
    from common.formats import load_network
    from common.models import create_meta_model, create_model

    if settings.arch:
        pruned = {
            f"widths in {n}s" if n > 1 else "any width": uniform_network(settings.arch, settings.target_macs, n)
            for n in settings.round_to
        }
        return {DENSE: create_model(settings.arch).eval(), **pruned}
    models = {str(Path(file)): load_network(file) for file in settings.checkpoint}
    if settings.dense:
        return {DENSE: load_network(settings.dense), **models}
    records = [getattr(model, "architecture", None) for model in models.values()]
    if records[0] is None or any(record != records[0] for record in records):
        raise UserError(
            "--checkpoint: the files do not have one registered architecture in common; give the dense network's file with --dense"
        )
    dense = create_meta_model(records[0]["arch"], **records[0]["args"])
    if sum(parameter.numel() for parameter in dense.parameters()) > DENSE_LIMIT:
        raise UserError(
            f"--checkpoint: the dense {records[0]['arch']} has over {DENSE_LIMIT:,} parameters; give its file with --dense"
        )
    return {DENSE: create_model(records[0]["arch"], **records[0]["args"]).eval(), **models}


if __name__ == "__main__":
    sys.exit(main())
