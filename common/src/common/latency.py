"""``python -m common.latency``: how much time the saved MACs save, against the dense network, in turns with it.

Either networks from files (``--checkpoint``), or ``--arch`` cut to ``--target-macs`` by equal widths, free and rounded to
multiples (``--round-to 1 8``): time does not depend on the weights.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common import cli
from common.atomic import write_json
from common.channels import channel_groups, keep_channels
from common.cost import WidthCost, count_cost
from common.device import choose_device, set_threads
from common.errors import UserError
from common.formats import load_network
from common.measure import LATENCY_BATCHES, LATENCY_REPEATS, latency_series
from common.models import create_model, input_shape, skeleton
from common.results import markdown_table, padded
from common.runs import describe_environment
from common.widths import uniform_widths

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
    model = create_model(arch).eval()
    shape = input_shape(model)
    example = torch.zeros(1, *shape)
    groups = channel_groups(model, example)
    widths = uniform_widths(groups, WidthCost(model, shape, groups), target_macs, round_to, tolerance=None)
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
    return markdown_table(header, [
        [g.network, g.batch, f"{g.dense_ms:.2f}", f"{g.ms:.2f}", f"{100 * g.latency_saved:.1f}", f"{100 * g.macs_saved:.1f}", f"{g.ratio:.2f}"]
        for g in found
    ])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m common.latency", description="Latency gained over MACs saved.")
    parser.add_argument("--checkpoint", nargs="+", default=[], help="compressed networks, all of one architecture")
    parser.add_argument("--dense", default=None, help="file of the dense network; by default the registry's")
    parser.add_argument("--arch", default=None, help="instead of files: this network, cut to equal widths")
    parser.add_argument("--target-macs", type=cli.fraction, default=0.5, help="with --arch: share of the MACs to keep")
    parser.add_argument(
        "--round-to", type=cli.positive_int, nargs="+", default=[1, 8], help="with --arch: widths are multiples"
    )
    parser.add_argument(
        "--batch-size", type=cli.positive_int, nargs="+", default=list(LATENCY_BATCHES), help="pictures at once"
    )
    parser.add_argument(
        "--repeats", type=cli.positive_int, default=LATENCY_REPEATS, help="of which the median is taken"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=None, help="threads on the CPU; torch's choice if not given")
    parser.add_argument("--json", default=None, help="write every repeat to this file too")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    networks = _networks(args)
    shape = input_shape(networks[DENSE])
    series = latency_series(networks, shape, device=device, batch_sizes=args.batch_size, repeats=args.repeats)
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    found = gains(series, macs)
    print(padded(gains_table(found)), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, median of {args.repeats} in turns with the dense network"
    )
    if args.json:
        write_json(args.json, {"milliseconds": series, "macs": macs, "environment": describe_environment(device)})


def _networks(args) -> dict[str, nn.Module]:
    """{name: network}, the dense one first."""
    if bool(args.checkpoint) == bool(args.arch):
        raise UserError("give either --checkpoint FILE or --arch NAME")
    if args.arch:
        cut = {
            f"widths in {n}s" if n > 1 else "any width": half_network(args.arch, args.target_macs, n)
            for n in args.round_to
        }
        return {DENSE: create_model(args.arch).eval(), **cut}
    models = {str(Path(file)): load_network(file) for file in args.checkpoint}
    if args.dense:
        return {DENSE: load_network(args.dense), **models}
    records = [getattr(model, "architecture", None) for model in models.values()]
    if records[0] is None or any(record != records[0] for record in records):
        raise UserError(
            "these files are not all of one architecture of the registry: name the dense network with --dense"
        )
    dense = skeleton(records[0]["arch"], **records[0]["args"])
    if sum(parameter.numel() for parameter in dense.parameters()) > DENSE_LIMIT:
        raise UserError(f"the dense {records[0]['arch']} of these files is very large: name its file with --dense")
    return {DENSE: create_model(records[0]["arch"], **records[0]["args"]).eval(), **models}


if __name__ == "__main__":
    sys.exit(main())
