"""``python -m common.latency``: how much time the saved MACs save, against the dense network, in turns with it.

Either networks from files (``--checkpoint``), or ``--arch`` cut to ``--target-macs`` by equal widths, free and rounded to
multiples (``--round-to 1 8``): time does not depend on the weights.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import write_json
from common.cli import fraction, positive_int
from common.errors import UserError
from common.markdown import markdown_table, padded
from common.options import LATENCY_BATCHES, LATENCY_REPEATS, RunOptions
from common.runs import describe_environment
from common.settings import command, option, section, settings

if TYPE_CHECKING:
    from torch import nn

DENSE = "dense"
DENSE_LIMIT = 250_000_000  # weights of a network that is built because files name its architecture


@dataclass(frozen=True)
class Gain:
    """One network at one batch size: milliseconds (medians), shares of latency and MACs that are saved, and their ratio."""

    network: str
    batch: int
    dense_ms: float
    ms: float
    latency_saved: float
    macs_saved: float

    @property
    def ratio(self) -> float:
        """(1 - t'/t) / (1 - m'/m); nan where no MACs are saved."""
        return self.latency_saved / self.macs_saved if self.macs_saved else float("nan")


def half_network(arch: str, target_macs: float, round_to: int = 1) -> nn.Module:
    """A registered network with equal widths and at most ``target_macs`` of its MACs, widths multiples of ``round_to``."""
    import torch

    from common.channels import channel_groups, keep_channels
    from common.cost import WidthCost
    from common.models import create_model, input_shape
    from common.target import Target, uniform_widths

    model = create_model(arch).eval()
    shape = input_shape(model)
    example = torch.zeros(1, *shape)
    groups = channel_groups(model, example)
    widths = uniform_widths(groups, WidthCost(model, shape, groups), Target(target_macs), round_to, exact=False)
    return keep_channels(model, example, {name: range(width) for name, width in widths.items()})


def gains(series: Mapping[str, Mapping[str, Sequence[float]]], macs: Mapping[str, int]) -> list[Gain]:
    """What every network but ``dense`` gains, by batch size. series: milliseconds, as ``latency_series`` gives them."""
    medians = {name: {b: statistics.median(v) for b, v in by_batch.items()} for name, by_batch in series.items()}
    found = []
    for name in (one for one in series if one != DENSE):
        for batch, ms in medians[name].items():
            dense = medians[DENSE][batch]
            found.append(Gain(name, int(batch), dense, ms, 1 - ms / dense, 1 - macs[name] / macs[DENSE]))
    return found


def gains_table(found: Sequence[Gain]) -> str:
    """Markdown: latency gained over MACs saved."""
    header = ["network", "batch", "dense ms", "ms", "latency saved %", "MACs saved %", "latency over MACs"]
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
    """Latency gained over MACs saved."""

    checkpoint: list[str] = option([], "compressed networks, all of one architecture")
    dense: str | None = option(None, "file of the dense network; by default the registry's")
    arch: str | None = option(None, "instead of files: this network, cut to equal widths")
    target_macs: float = option(0.5, "with --arch: share of the MACs to keep", type=fraction)
    round_to: list[int] = option([1, 8], "with --arch: widths are multiples", type=positive_int)
    batch_size: list[int] = option(list(LATENCY_BATCHES), "pictures at once", type=positive_int)
    repeats: int = option(LATENCY_REPEATS, "of which the median is taken", type=positive_int)
    run: RunOptions = section(RunOptions)
    json: str | None = option(None, "write every repeat to this file too")

    def __post_init__(self) -> None:
        if bool(self.checkpoint) == bool(self.arch):
            raise UserError("give either --checkpoint FILE or --arch NAME")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Latency, latency, argv, "python -m common.latency")


def latency(settings: Latency) -> None:
    """The command: build or read the networks, time them in turns, print what is gained."""
    import torch

    from common.cost import count_cost
    from common.device import choose_device, set_threads
    from common.measure import latency_series
    from common.models import input_shape

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    networks = _networks(settings)
    shape = input_shape(networks[DENSE])
    series = latency_series(networks, shape, device=device, batch_sizes=settings.batch_size, repeats=settings.repeats)
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    found = gains(series, macs)
    print(padded(gains_table(found)), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, median of {settings.repeats} in turns with the dense network"
    )
    if settings.json:
        write_json(settings.json, {"milliseconds": series, "macs": macs, "environment": describe_environment(device)})


def _networks(settings: Latency) -> dict[str, nn.Module]:
    """{name: network}, the dense one first."""
    from common.formats import load_network
    from common.models import create_meta_model, create_model

    if settings.arch:
        cut = {
            f"widths in {n}s" if n > 1 else "any width": half_network(settings.arch, settings.target_macs, n)
            for n in settings.round_to
        }
        return {DENSE: create_model(settings.arch).eval(), **cut}
    models = {str(Path(file)): load_network(file) for file in settings.checkpoint}
    if settings.dense:
        return {DENSE: load_network(settings.dense), **models}
    records = [getattr(model, "architecture", None) for model in models.values()]
    if records[0] is None or any(record != records[0] for record in records):
        raise UserError(
            "these files are not all of one architecture of the registry: name the dense network with --dense"
        )
    dense = create_meta_model(records[0]["arch"], **records[0]["args"])
    if sum(parameter.numel() for parameter in dense.parameters()) > DENSE_LIMIT:
        raise UserError(f"the dense {records[0]['arch']} of these files is very large: name its file with --dense")
    return {DENSE: create_model(records[0]["arch"], **records[0]["args"]).eval(), **models}


if __name__ == "__main__":
    sys.exit(main())
