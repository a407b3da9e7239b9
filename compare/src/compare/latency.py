"""Time the networks of a comparison against the dense one when all results are finished, so that nothing else runs meanwhile.

OUT/latency.json has the milliseconds of the dense network and, for each result, its time relative to the dense network's with the interval
and the control: see :mod:`common.timing`.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_json
from common.factory import import_factory, known_shape
from common.formats import load_network
from common.measure import measure_latency
from common.options import LATENCY_SECONDS
from common.progress import phase, track
from common.runs import describe_environment
from compare.result_set import LATENCY, ResultSet, read_latency, read_results

DENSE = "dense"
TOGETHER = 12  # networks that are timed, and in memory, at the same time


def time_results(
    out: Path, device: torch.device, factory: str | None, shape_of_data: Callable[[], Sequence[int]]
) -> None:
    """Time the network of every result that is there, and write ``latency.json``; nothing is done if it has them all.

    Args:
        factory: PACKAGE.MODULE:FACTORY of a network that is not registered.
        shape_of_data: Returns the shape of one example, for networks that do not record it.
    """
    result_set = read_results(out)
    places = {one["folder"]: out / one["folder"] / one.get("file", "") for one in result_set.results}
    files = {folder: file for folder, file in places.items() if file.is_file()}  # others were moved away
    dense_file = _dense_file(result_set)
    if not files or dense_file is None:
        return
    digests = {folder: _digest(file) for folder, file in files.items()}
    environment = describe_environment(device)
    known = read_latency(out)
    if known is not None and known["environment"] == environment:
        timed = {folder: one["digest"] for folder, one in known["results"].items()}
        if timed == digests:
            return
    build = import_factory(factory) if factory else None
    dense = load_network(dense_file, build)
    found: dict[str, dict[str, Any]] = {}
    dense_ms: dict[str, float] = {}
    input_shape = known_shape(dense, build) or shape_of_data()
    parts = [list(files)[i : i + TOGETHER] for i in range(0, len(files), TOGETHER)]
    with phase("measure the latency"):
        for part in track(parts, "latency"):
            networks = {DENSE: dense, **{folder: load_network(files[folder], build) for folder in part}}
            measured = measure_latency(
                networks, input_shape, reference=DENSE, device=device, seconds=LATENCY_SECONDS * len(part) / len(files)
            )
            dense_ms = dense_ms or measured.milliseconds(DENSE)
            for folder in part:
                ms, relative = measured.milliseconds(folder), measured.record(folder)
                found[folder] = {"digest": digests[folder], "ms": ms, "relative": relative}
    write_json(out / LATENCY, {"environment": environment, "dense_ms": dense_ms, "results": found})


def _dense_file(result_set: ResultSet) -> Path | None:
    """Return the file of a dense network, if there is one; those of all seeds have the same shapes."""
    files = [*result_set.out.glob("baseline/model.*"), *sorted(result_set.out.glob("seed*/baseline/model.*"))]
    return files[0] if files else None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
