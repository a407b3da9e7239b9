"""A latency target against a MACs target at the same measured time: same network, same method, same fine-tuning.

    python -m compare.paper.latency_target --arch resnet56 --weights resnet56-4bfd9763.th --dataset cifar10 \\
        --latency-batch-size 64 --threads 1 --train 1 --name ResNet-56 --out runs/latency-resnet56

Both networks take at most ``--target-latency`` of the dense network's time as measured, and at least 0.95 of that. For the first, the method
decides with predicted times and with widths that this machine likes; for the second, it decides with MACs, and is asked for fewer or
more of them until the time fits. Then both are timed next to the dense network in one run, which is written to
``results/latency-target-resnet_56.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli import EPOCHS, TARGET_LATENCY, positive_int
from common.errors import UserError
from common.markdown import markdown_table
from common.options import (
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    TARGET_LATENCY_HELP,
    CalibrationOptions,
    DataOptions,
    HardwareOptions,
    NetworkOptions,
    RepeatOptions,
)
from common.runtimes import TORCH
from common.settings import REQUIRED, changed_values, command, flatten, option, section, settings
from common.timing import relative_text
from compare.findings import pluralize
from compare.paper.result_files import network_file

if TYPE_CHECKING:
    from common.methods import Decide, Decision, Method
    from common.runs import Stage
    from common.target import Target
    from common.trained_model import TrainedModel

RESULTS = Path(__file__).resolve().parents[3] / "results"
PREFIX = "latency-target-"
ROWS = {"latency": "latency target", "macs": "MACs target"}


@settings
class LatencyAgainstMacs:
    """Prune one network to a fraction of its time twice, deciding with predicted times and with MACs."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    target_latency: float = option(0.6, TARGET_LATENCY_HELP, type=TARGET_LATENCY, metavar="F")
    latency_batch_size: int = option(1, LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str = option(TORCH, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    method: str = option("model_preserving_id_extended", "installed method", metavar="NAME")
    train: int = option(0, "number of epochs of fine-tuning", type=EPOCHS, metavar="EPOCHS")
    calibration: CalibrationOptions = section(CalibrationOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    name: str = option(REQUIRED, "name of the network in the table", free=True)
    out: str = option(REQUIRED, "folder for the networks", metavar="DIR", free=True)
    results: str | None = option(
        None, "folder of the file of results (default: compare/results)", metavar="DIR", free=True
    )


def by_macs(decide: Decide, start: TrainedModel) -> Decide:
    """Return a method that takes a fraction of the time as one of the MACs, without limits on the widths."""

    from common.target import Target

    def decide_by_macs(_: TrainedModel, target: Target | None, stage: Stage) -> Decision:
        assert target is not None
        return decide(start, Target(target.fraction, "macs", target.tolerance), stage)

    return decide_by_macs


def compare_targets(given: LatencyAgainstMacs) -> Path:
    """Make both networks, or read them if they are finished, time them, and write a file of results.

    Raises UserError if the machine is not idle at the end: the networks stay.
    """
    from common.compression import TRAINING
    from common.device import choose_device, set_threads
    from common.formats import load_network
    from common.measure import measure_latency
    from common.methods import find_method, installed_methods
    from common.pipeline import FineTuning, compress
    from common.runs import describe_environment, open_stage, typed_command
    from common.runtimes import in_runtime
    from common.target import latency_target
    from common.trained_model import open_trained_model

    set_threads(given.run.threads)
    start = open_trained_model(given.network, given.data, device=choose_device(given.run.device))
    start = start.changed(**changed_values(given.calibration))
    target = latency_target(given.target_latency, given.latency_batch_size, given.latency_runtime)
    method = find_method(installed_methods(), given.method)
    methods: dict[str, Method] = {"latency": method, "macs": replace(method, decide=by_macs(method.decide, start))}
    recipe, rows, networks = replace(TRAINING, epochs=given.train), {}, {"dense": start.copy()}
    for kind, one in methods.items():
        stage = open_stage(
            Path(given.out) / kind,
            "compare",
            flatten(given, identity=True) | {"weights_digest": start.digest},
            device=start.device,
            fingerprint=start.data.fingerprint,
            force=given.repeat.force,
            seed=given.repeat.seed,
            log=print,
            recipe=recipe,
        )
        rows[kind] = compress(one, start, target, stage, FineTuning(recipe), latency=False, snap=kind == "latency")
        networks[kind] = load_network(Path(given.out) / kind / rows[kind]["file"], start.factory)
    shape, batch = start.data.input_shape, str(target.batch_size)
    timed = measure_latency(
        {name: in_runtime(target.runtime, model.eval(), shape) for name, model in networks.items()},
        shape,
        device=start.device,
        batch_sizes=[target.batch_size],
    )
    if timed.disturbed:
        raise UserError(f"not an idle machine, nothing is written: {timed.disturbed}; run the same command again")
    file = network_file(given.results or RESULTS, PREFIX, given.name)
    first = rows["latency"]
    record: dict[str, Any] = {
        "network": given.name,
        "method": method.label,
        "target": target.fraction,
        "conditions": target.conditions,
        "epochs": given.train,
        "command": typed_command(),
        "environment": describe_environment(start.device),
        "dense": {**first["baseline"], "milliseconds": timed.milliseconds("dense")[batch]},
        "rows": {
            kind: {
                **{key: row["compressed"][key] for key in ("top1", "agreement", "macs", "params")},
                "after_cut": row["after_cut"]["top1"],
                "round_to": row["latency_target"]["round_to"],
                "attempts": row["latency_target"]["attempts"],
                "time": timed.record(kind)[batch],
            }
            for kind, row in rows.items()
        },
    }
    write_json(file, record)
    return file


def latency_table(results: Path = RESULTS) -> str:
    """Format all files of :func:`compare_targets`: two rows per network."""
    from common.runs import read_json

    rows: list[list[object]] = []
    for file in sorted(results.glob(f"{PREFIX}*.json")):
        one = read_json(file)
        conditions = (
            f"batch {one['conditions']['latency_batch_size']}, {pluralize(one['environment']['threads'], 'thread')}"
        )
        dense = one["dense"]
        rows.append(
            [
                f"{one['network']}, dense",
                f"{dense['top1']:.1f}",
                "",
                "100",
                f"{dense['milliseconds']:.1f} ms ({conditions})",
            ]
        )
        for kind, row in one["rows"].items():
            widths = f", widths multiples of {row['round_to']}" if row["round_to"] > 1 else ""
            rows.append(
                [
                    f"{one['network']}, {ROWS[kind]}{widths}",
                    f"{row['top1']:.1f}",
                    f"{row['after_cut']:.1f}" if one["epochs"] else "",
                    f"{100 * row['macs'] / dense['macs']:.1f}",
                    relative_text(row["time"]),
                ]
            )
    if not rows:
        return "Not run yet."
    return markdown_table(["network", "top-1 (%)", "before fine-tuning", "MACs (%)", "time (% of dense)"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    show = lambda given: print(compare_targets(given))  # noqa: E731
    return command(LatencyAgainstMacs, show, argv, "python -m compare.paper.latency_target", "compare")


if __name__ == "__main__":
    sys.exit(main())
