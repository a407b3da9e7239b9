"""Measure the latency in stored results again: ``python -m common.paper.latencies decore/results/run-*.json``.

The networks are built from the recorded widths (latency does not depend on the weights) and timed against the dense one, on an idle machine:
if anything disturbs the measurement, nothing is written. A result without recorded widths loses the latency that was measured without a control.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import cli
from common.atomic import write_json
from common.channels import channel_groups, keep_channels
from common.cli import THREADS, Range
from common.cost import count_cost
from common.device import set_threads
from common.errors import UserError
from common.measure import measure_latency
from common.models import create_model, input_shape
from common.options import LATENCY_SECONDS, SHORTCUTS
from common.runs import describe_environment, read_json

DENSE, PRUNED = "dense", "pruned"


def measure_again(file: Path, seconds: float = LATENCY_SECONDS) -> bool:
    """Replace the latency in a result file; return whether there is one now. Raises UserError on a machine that is not idle."""
    record = read_json(file)
    dense = _dense(record)
    network = None if dense is None else _pruned(dense, record)
    for side in ("baseline", "compressed"):
        record[side].pop("latency_ms", None)
    for name in ("latency", "latency_environment"):
        record.pop(name, None)
    if dense is not None and network is not None:
        measured = measure_latency({DENSE: dense, PRUNED: network}, input_shape(dense), seconds=seconds)
        if measured.disturbed:
            raise UserError(f"{file}: not written: {measured.disturbed}")
        record["baseline"]["latency_ms"] = measured.milliseconds(DENSE)
        record["compressed"]["latency_ms"] = measured.milliseconds(PRUNED)
        record["latency"] = measured.record(PRUNED)
        record["latency_environment"] = describe_environment(torch.device("cpu"))
    write_json(file, record)
    return network is not None


def _dense(record: Mapping[str, Any]) -> nn.Module | None:
    """Build the dense network of a result, with the shortcuts that its MACs tell; None if it is another network."""
    choices: list[dict[str, Any]] = [{}, *({"shortcut": name} for name in SHORTCUTS)]
    for more in choices:
        try:
            model = create_model(record["arch"], **more).eval()
        except (TypeError, UserError):
            continue
        if count_cost(model, input_shape(model)).macs == record["baseline"]["macs"]:
            return model
    return None


def _pruned(dense: nn.Module, record: Mapping[str, Any]) -> nn.Module | None:
    """Build the pruned network from {group: "kept/all"}; None if it is not recorded or the MACs differ."""
    if not record.get("kept"):
        return None
    shape = input_shape(dense)
    example = torch.zeros(1, *shape)
    sizes = {group.name: group.size for group in channel_groups(dense, example)}
    counts = {name: tuple(map(int, text.split("/"))) for name, text in record["kept"].items()}
    if any(sizes.get(name) != size for name, (_, size) in counts.items()):
        return None
    network = keep_channels(dense, example, {name: list(range(count)) for name, (count, _) in counts.items()}).eval()
    return network if count_cost(network, shape).macs == record["compressed"]["macs"] else None


def main(argv: Sequence[str] | None = None) -> int:
    def body(argv: Sequence[str] | None) -> None:
        parser = cli.Parser(prog="python -m common.paper.latencies", description=__doc__.splitlines()[0])
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files, which are changed")
        parser.add_argument("--threads", type=THREADS, default=1, help="number of CPU threads")
        parser.add_argument(
            "--seconds", type=Range(float, 0.1, 86_400), default=LATENCY_SECONDS, help="longest measurement"
        )
        args = parser.parse_args(argv)
        set_threads(args.threads)
        for file in args.files:
            done = measure_again(file, args.seconds)
            print(f"{file}: {'measured' if done else 'no widths are recorded: without latency now'}", flush=True)

    return cli.run(body, argv)


if __name__ == "__main__":
    sys.exit(main())
