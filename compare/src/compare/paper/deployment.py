"""What an engineer gets: files of one network, dense, of 8-bit integers, pruned and compressed, read back, evaluated and timed.

    python -m compare.paper.deployment --name ResNet-56 --dataset cifar10 --threads 1 \\
        --network dense dense.safetensors --network int8 runs/int8/model.onnx \\
        --network pruned pruned.safetensors --network "pruned, int8" runs/pruned-int8/model.onnx

evaluates every file on the test images, times all networks of a batch size in one run, in PyTorch and in ONNX Runtime, each against
the first network in ONNX Runtime, and writes ``results/deployment-resnet_56.json``. An ONNX file has no time in PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli import SECONDS, THREADS
from common.errors import UserError
from common.markdown import markdown_table
from common.options import LATENCY_BATCHES, LATENCY_SECONDS, DataOptions
from common.runtimes import TORCH
from common.settings import REQUIRED, command, option, section, settings
from common.timing import relative_text
from compare.paper.result_files import network_file

if TYPE_CHECKING:
    from torch import Tensor

RESULTS = Path(__file__).resolve().parents[3] / "results"
PREFIX = "deployment-"
ONNXRUNTIME = "onnxruntime"
SHORT = ("dense", "int8", "pruned", "pruned, int8", "pruned, Deep Compression")  # rows of the short table


@settings
class Deployment:
    """Evaluate and time files of one network, and write a file of results."""

    network: list[list[str]] = option(
        REQUIRED,
        "name in the table and file; may be repeated; the first one is the reference",
        action="append",
        nargs=2,
        type=str,
        metavar=("NAME", "FILE"),
    )
    data: DataOptions = section(DataOptions)
    threads: int | None = option(None, "number of CPU threads (default: chosen by torch)", type=THREADS, free=True)
    seconds: float = option(LATENCY_SECONDS, "longest measurement of a batch size", type=SECONDS, free=True)
    name: str = option(REQUIRED, "name of the network in the table", free=True)
    results: str | None = option(
        None, "folder of the file of results (default: compare/results)", metavar="DIR", free=True
    )


def measure_files(given: Deployment) -> Path:
    """Evaluate and time the files, and write a file of results.

    Raises UserError if a file is not a network, two have one name, or the machine is not idle.
    """
    import copy

    from common.data import load_data
    from common.device import set_threads
    from common.formats import load_network
    from common.measure import evaluate, measure_latency
    from common.runs import describe_environment, typed_command
    from common.runtimes import network_in
    from common.trained_model import with_preprocessing_of

    files = {name: Path(file) for name, file in given.network}
    if len(files) < len(given.network):
        raise UserError("--network: two have the same name")
    set_threads(given.threads)
    networks = {name: load_network(file).eval() for name, file in files.items()}
    first = next(iter(networks))
    data = with_preprocessing_of(networks[first], load_data(given.data))
    shape = data.input_shape
    rows: dict[str, dict[str, Any]] = {}
    predictions: Tensor | None = None
    for name, network in networks.items():
        found = evaluate(network, data.test, workers=given.data.workers, reference=predictions)
        if predictions is None:
            predictions, found = found.predictions, replace(found, agreement=100.0)  # the reference agrees with itself
        rows[name] = {**found.entries(), "bytes": files[name].stat().st_size, "file": files[name].name, "times": {}}
    placed = {}
    for runtime in (ONNXRUNTIME, TORCH):
        for name, network in networks.items():
            model = network_in(runtime, copy.deepcopy(network), shape)
            if model is not None:
                placed[name, runtime] = model
    named = {f"{name}, {runtime}": model for (name, runtime), model in placed.items()}
    timed = measure_latency(named, shape, batch_sizes=LATENCY_BATCHES, seconds=given.seconds * len(LATENCY_BATCHES))
    if timed.disturbed:
        raise UserError(f"not an idle machine, nothing is written: {timed.disturbed}")
    for name, runtime in placed:
        key = f"{name}, {runtime}"
        rows[name]["times"][runtime] = {
            batch: {"milliseconds": timed.milliseconds(key)[batch], **record}
            for batch, record in timed.record(key).items()
        }
    file = network_file(given.results or RESULTS, PREFIX, given.name)
    record = {
        "network": given.name,
        "images": len(data.test),
        "command": typed_command(),
        "environment": describe_environment("cpu"),
        "rows": rows,
    }
    write_json(file, record)
    return file


def deployment_table(results: Path = RESULTS) -> str:
    """Format all files of :func:`measure_files`: a row per file; times in percent of the dense network's in ONNX Runtime."""
    from common.runs import read_json

    rows: list[list[object]] = []
    for file in sorted(results.glob(f"{PREFIX}*.json")):
        one = read_json(file)
        for name, row in one["rows"].items():
            times = [
                _time(
                    row["times"].get(runtime, {}).get(str(batch)),
                    name == next(iter(one["rows"])) and runtime == ONNXRUNTIME,
                )
                for runtime in (TORCH, ONNXRUNTIME)
                for batch in LATENCY_BATCHES
            ]
            rows.append([f"{one['network']}, {name}", f"{row['top1']:.1f}", f"{row['bytes'] / 1e3:,.0f}", *times])
    if not rows:
        return "Not run yet."
    heads = [f"{what}, batch {batch}" for what in ("PyTorch", "ONNX Runtime") for batch in LATENCY_BATCHES]
    return markdown_table(["network", "top-1 (%)", "file (kB)", *heads], rows)


def short_table(results: Path = RESULTS) -> str:
    """Format a column per network: top-1, size of the file, and time in ONNX Runtime for a batch of one image, a row per kind of file."""
    from common.runs import read_json

    found = [read_json(file) for file in sorted(results.glob(f"{PREFIX}*.json"))]
    if not found:
        return "Not run yet."
    kinds = [name for name in SHORT if any(name in one["rows"] for one in found)]
    rows: list[list[object]] = []
    for kind in kinds:
        cells = []
        for one in found:
            row = one["rows"].get(kind)
            time = "" if row is None else _time(row["times"][ONNXRUNTIME]["1"], kind == next(iter(one["rows"])))
            cells.append("" if row is None else f"{row['top1']:.1f} %, {row['bytes'] / 1e3:,.0f} kB, {time}")
        rows.append([kind, *cells])
    return markdown_table(["network", *(one["network"] for one in found)], rows)


def _time(record: dict[str, Any] | None, is_reference: bool) -> str:
    if record is None:
        return ""
    if not is_reference:
        return relative_text(record)
    milliseconds = record["milliseconds"]
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def main(argv: Sequence[str] | None = None) -> int:
    show = lambda given: print(measure_files(given))  # noqa: E731
    return command(Deployment, show, argv, "python -m compare.paper.deployment", "compare")


if __name__ == "__main__":
    sys.exit(main())
