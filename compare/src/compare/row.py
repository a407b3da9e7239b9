"""One row: its steps through the pipeline, each in a folder of its own, and what a row says beside the figures.

OUT/seed0/redundancy_graph-macs0.5/       config.json log.csv metrics.json model.safetensors, and the method's own parts
OUT/seed0/a+b+c-macs0.5-bytes0.05/step1-a/ step2-b/ step3-c/ the steps of a chain, each such a folder
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.methods import Method
from common.pipeline import FineTuning, Outcome, compress
from common.runs import open_stage
from common.target import TOLERANCE, Target
from common.trained_model import TrainedModel, read_trained_model
from compare.account import per_class, widths
from compare.plan import Comparison, Job
from compare.settings import PACKAGE


@dataclass(frozen=True)
class Step:
    """One method of a job.

    Attributes:
        start: The network that it compresses.
        target: What it aims at, as a fraction of the *dense* network's MACs or bytes.
        handed: The fraction of ``start`` that the method is asked for; differs from ``target`` in a chain.
        number: Its place in the chain, from 1; None for a row of one method.
    """

    name: str
    method: Method
    start: TrainedModel
    folder: Path
    target: float
    handed: float
    number: int | None = None


def run_job(job: Job, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    """All steps of a row, as far as they are not done: the metrics of the last. Raises UserError where a target cannot be met."""
    folder = comparison.out / f"seed{job.seed}" / job.name
    if not job.is_chain:
        (name,), (target,) = job.methods, job.targets.values()
        return run_step(Step(name, comparison.methods[name], dense, folder, target, target), job, comparison, dense)
    start, metrics, file = dense, {}, folder
    for number, name in enumerate(job.methods):
        if number:  # what the step before has left
            how = {"factory": dense.factory, "device": dense.device, "workers": dense.workers}
            start = read_trained_model(file, dense.data, name=dense.name, reference=dense, **how)
        target, handed = _chain_step(job, number, comparison, dense, start)
        place = folder / f"step{number + 1}-{name}"
        step = Step(name, comparison.methods[name], start, place, target, handed, number + 1)
        metrics = run_step(step, job, comparison, dense)
        file = place / metrics["file"]
    return metrics


def _chain_step(
    job: Job, number: int, comparison: Comparison, dense: TrainedModel, start: TrainedModel
) -> tuple[float, float]:
    """(fraction of the dense network to reach, fraction of what is handed on): equal factors for the steps that are left."""
    axis = comparison.methods[job.methods[number]].axis
    dense_size, now = (net.bytes if axis == "bytes" else net.cost.dense for net in (dense, start))
    left = sum(comparison.methods[name].axis == axis for name in job.methods[number:])
    handed = (job.targets[axis] * dense_size / now) ** (1 / left)
    if handed >= 1:
        raise UserError(
            f"{job.name}: {job.methods[number]} is handed {now / dense_size:.4f} of the {axis} and should leave more"
        )
    return handed * now / dense_size, handed


def run_step(step: Step, job: Job, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    """One method in a folder of its own; a finished one is only read."""
    shared = comparison.out / f"seed{job.seed}" / "shared" / step.name
    stage = open_stage(
        step.folder,
        PACKAGE,
        _options(step, job, comparison, dense),
        device=dense.device,
        fingerprint=dense.data.fingerprint,
        force=comparison.force,
        seed=job.seed,
        log=_silent,
        recipe=comparison.recipe,
        shared=shared if step.start is dense else None,
    )
    cpu = time.process_time()

    def details(outcome: Outcome) -> Mapping[str, Any]:
        return {
            **_about(step, job, outcome),
            "command": _command(job, comparison),
            "finetune_epochs": 0 if step.method.axis == "bytes" else comparison.recipe.epochs,
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }

    training = FineTuning(comparison.recipe, comparison.distill, comparison.recalibrate, log_test=False)
    target = Target(step.handed, step.method.axis)
    return compress(step.method, step.start, target, stage, training, latency=comparison.latency, details=details)


def _silent(line: str) -> None:
    """``compare`` prints one table for all methods."""


def _options(step: Step, job: Job, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    more = {"distill": comparison.distill, "recalibrate": comparison.recalibrate}
    return {
        "method": step.name,
        "chain": list(job.methods) if job.is_chain else None,
        "targets": dict(job.targets),
        "seed": job.seed,
        "arch": dense.arch or dense.name,
        "dataset": dense.data.name,
        "start_digest": step.start.file_digest,
        "finetune": comparison.recipe.identity() | {name: value for name, value in more.items() if value},
    }


def _about(step: Step, job: Job, outcome: Outcome) -> dict[str, Any]:
    """What the row is, whether it met its target, its classes and layers, and what must be said of its method."""
    measured, baseline = outcome.metrics["compressed"], outcome.metrics["baseline"]
    dense = step.start.reference or step.start
    kept = {axis: round(measured[axis] / baseline[axis], 6) for axis in ("macs", "params", "bytes")}
    axis = step.method.axis
    last = step.number == len(job.methods)
    return {
        "label": step.method.label,
        "method": step.name,
        "chain": list(job.methods) if job.is_chain else None,
        "step": step.number,
        "axis": axis,
        "targets": dict(job.targets),
        "target": round(step.target, 6),
        "kept": kept,
        "missed": [axis] * (not (1 - TOLERANCE) * step.target <= kept[axis] <= (1 + TOLERANCE) * step.target)
        + [a for a, aim in job.targets.items() if last and a != axis and abs(kept[a] / aim - 1) > TOLERANCE],
        "weights": step.method.weights,
        "trains": step.method.trains,
        "paper": step.method.paper,
        "note": step.method.note,
        "per_class": per_class(
            dense.data.test.labels, outcome.accuracy.predictions, dense.accuracy.predictions, dense.data.num_classes
        ),
        "classes": dense.data.classes,
        "widths": widths(outcome.network, dense.model),
    }


def _command(job: Job, comparison: Comparison) -> str:
    """The command that makes this row alone."""
    words = list(comparison.command)
    words += ["--chain", ",".join(job.methods)] if job.is_chain else ["--methods", *job.methods]
    for axis, target in job.targets.items():
        words += [f"--target-{axis}", f"{target:g}"]
    return " ".join([*words, "--seeds", str(job.seed)])
