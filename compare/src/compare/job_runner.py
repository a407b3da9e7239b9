"""Run a job: its chain steps go through the pipeline one by one, each in its own folder.

OUT/seed0/redundancy_graph-macs0.5/       config.json log.csv metrics.json model.safetensors, and the method's own files
OUT/seed0/a+b+c-macs0.5-bytes0.05/step1-a/ step2-b/ step3-c/    one such folder for each step of a chain
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.measure import Accuracy
from common.methods import Method
from common.pipeline import FineTuning, Outcome, compress
from common.progress import note, part
from common.runs import open_stage
from common.target import Axis, Target, latency_target
from common.trained_model import CALIBRATION_IMAGES, TrainedModel, read_trained_model
from compare.breakdown import layer_widths, per_class
from compare.changed_images import SHEET, changed_predictions, draw_sheet
from compare.comparison_jobs import Comparison, ComparisonJob
from compare.settings import PACKAGE


@dataclass(frozen=True)
class ChainStep:
    """One method of a job.

    Attributes:
        start: The network to compress.
        target: Target as a fraction of the *dense* network's MACs, bytes or time; None for a method without one.
        aim: Target for the pipeline: as a fraction of the MACs or bytes of ``start``, or of the dense network's time.
        number: Position in the chain, from 1; None for a job with one method.
        latency: Measured time of ``start`` relative to the dense network's, if the chain has a target of latency.
    """

    name: str
    method: Method
    start: TrainedModel
    folder: Path
    target: float | None
    aim: Target | None
    number: int | None = None
    latency: float = 1.0


def run_job(job: ComparisonJob, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    """Run the unfinished steps of a job.

    Args:
        dense: The dense network of the job's seed.

    Returns:
        The metrics of the last step.

    Raises:
        UserError: If a target cannot be reached.
    """
    folder = comparison.out / f"seed{job.seed}" / job.name
    if not job.is_chain:
        (name,), target = job.methods, next(iter(job.targets.values()), None)
        aim = None if target is None else _aim(job, comparison, comparison.methods[name].axis, target)
        return run_step(ChainStep(name, comparison.methods[name], dense, folder, target, aim), job, comparison, dense)
    metrics: dict[str, Any] = {}
    start, file, latency = dense, folder, 1.0
    for number, name in enumerate(job.methods):
        if number:  # start from the output of the previous step
            same = ("factory", "device", "workers", "limits", "calibration_images")
            how = {field: getattr(dense, field) for field in same}
            start = read_trained_model(file, dense.data, name=dense.name, reference=dense, **how)
            latency = metrics["kept"].get("latency", 1.0)
        target, aim = _step_target(job, number, comparison, dense, start, latency)
        place = folder / f"step{number + 1}-{name}"
        step = ChainStep(name, comparison.methods[name], start, place, target, aim, number + 1, latency)
        with part(f"step {number + 1} of {len(job.methods)}, {name}"):
            metrics = run_step(step, job, comparison, dense)
        file = place / metrics["file"]
    return metrics


def _step_target(
    job: ComparisonJob, number: int, comparison: Comparison, dense: TrainedModel, start: TrainedModel, latency: float
) -> tuple[float | None, Target | None]:
    """Return a step's target as a fraction of the dense network, and for the pipeline; the remaining steps have equal factors.

    latency: measured time of ``start`` relative to the dense network's.
    """
    axis = comparison.methods[job.methods[number]].axis
    if axis is None:
        return None, None
    left = sum(comparison.methods[name].axis == axis for name in job.methods[number:])
    timed = axis == "macs" and "latency" in job.targets
    if timed:
        now = latency
    else:
        now = start.bytes / dense.bytes if axis == "bytes" else start.cost.dense / dense.cost.dense
    what = "latency" if timed else axis
    relative_target = (job.targets[what] / now) ** (1 / left)
    if relative_target >= 1:
        raise UserError(
            f"{job.name}: {job.methods[number]} starts from {now:.4f} of the {what}, "
            f"less than the target of {job.targets[what]:g}; choose a smaller target"
        )
    target = round(relative_target * now, 9)
    return target, _aim(job, comparison, axis, target if timed else relative_target)


def _aim(job: ComparisonJob, comparison: Comparison, axis: Axis | None, fraction: float) -> Target | None:
    """Return the target of a method of this axis for the pipeline."""
    if axis is None:
        return None
    if axis == "macs" and "latency" in job.targets:
        return latency_target(fraction, comparison.latency_batch_size, comparison.latency_runtime)
    return Target(fraction, axis)


def run_step(step: ChainStep, job: ComparisonJob, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    """Run one method in its own folder and return its metrics; a finished step is only read."""
    shared = comparison.out / f"seed{job.seed}" / "shared" / step.name
    stage = open_stage(
        step.folder,
        PACKAGE,
        _options(step, job, comparison, dense),
        device=dense.device,
        fingerprint=dense.data.fingerprint,
        force=comparison.force,
        seed=job.seed,
        log=note,
        recipe=comparison.recipe,
        shared=shared if step.start is dense else None,
    )
    cpu = time.process_time()

    def details(outcome: Outcome) -> Mapping[str, Any]:
        described = _description(step, job, outcome)
        draw_sheet(step.folder / SHEET, dense.data, described["changed"]["index"])
        return {
            **described,
            "command": _command(job, comparison),
            "finetune_epochs": comparison.recipe.epochs if step.method.is_tuned else 0,
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }

    training = FineTuning(comparison.recipe, comparison.distill, comparison.recalibrate, log_test=False)
    return compress(
        step.method,
        step.start,
        step.aim,
        stage,
        training,
        latency=False,  # that of all networks is measured at the end
        accept_missed=True,  # it is marked in the table
        details=details,
    )


def _options(step: ChainStep, job: ComparisonJob, comparison: Comparison, dense: TrainedModel) -> dict[str, Any]:
    more = {"distill": comparison.distill, "recalibrate": comparison.recalibrate}
    return {
        "method": step.name,
        "variant": step.method.variant,
        "chain": list(job.methods) if job.is_chain else None,
        "targets": dict(job.targets),
        "seed": job.seed,
        "arch": dense.arch or dense.name,
        "dataset": dense.data.name,
        "start_digest": step.start.file_digest,
        "finetune": comparison.recipe.identity() | {name: value for name, value in more.items() if value},
        **({"limits": dense.limits.identity()} if dense.limits else {}),
        **(_latency_conditions(comparison) if "latency" in job.targets else {}),
        **({} if dense.calibration_images == CALIBRATION_IMAGES else {"calibration_images": dense.calibration_images}),
    }


def _latency_conditions(comparison: Comparison) -> dict[str, Any]:
    return latency_target(1.0, comparison.latency_batch_size, comparison.latency_runtime).conditions


def _description(step: ChainStep, job: ComparisonJob, outcome: Outcome) -> dict[str, Any]:
    """Describe a result: method, target, whether the target was met, accuracy per class, width per layer."""
    measured, baseline = outcome.metrics["compressed"], outcome.metrics["baseline"]
    dense = step.start.reference or step.start
    kept = {axis: measured[axis] / baseline[axis] for axis in ("macs", "params", "bytes")}
    axis, target = step.method.axis, step.target
    aims: dict[str, Target] = {} if axis is None or target is None else {axis: Target(round(target, 9))}
    if step.number == len(job.methods):  # the last step of a chain: its other targets
        aims = {name: Target(fraction) for name, fraction in job.targets.items()} | aims
    if "latency" in job.targets:
        reached = outcome.decision.report.get("latency_target")
        kept["latency"] = reached["ratio"] if reached else step.latency  # other steps do not change the shapes
        if reached:
            axis, aims = "latency", {"latency": latency_target(reached["target"])}
        elif "latency" in aims:
            aims["latency"] = latency_target(job.targets["latency"])
    found = outcome.accuracy
    assert isinstance(found, Accuracy)  # compare runs classifiers only
    return {
        "label": step.method.label,
        "method": step.name,
        "variant": step.method.variant,
        "chain": list(job.methods) if job.is_chain else None,
        "step": step.number,
        "axis": axis,
        "targets": dict(job.targets),
        "target": None if target is None else round(target, 6),
        "kept": {axis: round(value, 6) for axis, value in kept.items()},
        "missed": [name for name, aim in aims.items() if not aim.is_met_by(round(kept[name], 9))],
        "weights": step.method.weights,
        "trains": step.method.trains,
        "paper": step.method.paper,
        "note": step.method.note,
        "per_class": per_class(
            dense.data.test.labels, found.predictions, dense.accuracy.predictions, dense.data.num_classes
        ),
        "test_images": len(found.predictions),
        "changed": changed_predictions(dense.data.test.labels, found.predictions, dense.accuracy.predictions),
        "classes": dense.data.classes,
        "widths": layer_widths(step.start.model if axis is None else outcome.network, dense.model),
    }


def _command(job: ComparisonJob, comparison: Comparison) -> str:
    """Return the command that computes this result alone."""
    argv = list(comparison.command)
    argv += ["--chain", ",".join(job.methods)] if job.is_chain else ["--methods", *job.methods]
    for axis, target in job.targets.items():
        argv += [f"--target-{axis}", f"{target:g}"]
    return " ".join([*argv, "--seeds", str(job.seed)])
