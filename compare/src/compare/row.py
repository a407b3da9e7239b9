"""One row: compress, measure what was written, fine-tune by the one recipe, write, read back, measure again.

OUT/seed0/redundancy_graph-macs0.5/       config.json log.csv metrics.json model.safetensors
OUT/seed0/redundancy_graph-macs0.5/method/                   what the method itself leaves
OUT/seed0/a+b+c-macs0.5-bytes0.05/step1-a/ step2-b/ step3-c/ the steps of a chain, each such a folder
"""

import hashlib
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import atomic_file, write_csv
from common.checkpoint import save_model
from common.errors import UserError
from common.formats import load_network
from common.measure import latency_ms, side
from common.methods import Method, Task
from common.runs import LOG, Run, open_run
from common.training import Hooks, distillation, fit
from compare.account import per_class, widths
from compare.plan import Comparison, Job
from compare.settings import PACKAGE
from compare.subject import Dense

MISS = 0.02  # a row whose MACs miss its budget by more is marked


@dataclass(frozen=True)
class Step:
    """One method of a job: what it starts from and what it aims at, as a share of the *dense* network's MACs or bytes.

    handed: share of the task's own start that the method is asked for; differs from ``target`` in a chain.
    number: its place in the chain, from 1; None for a row of one method.
    """

    name: str
    method: Method
    start: Path
    folder: Path
    target: float
    handed: float
    number: int | None = None


def run_job(job: Job, comparison: Comparison, dense: Dense) -> dict[str, Any]:
    """All steps of a row, as far as they are not done: the metrics of the last. Raises UserError where a target cannot be met."""
    folder = comparison.out / f"seed{job.seed}" / job.name
    if not job.is_chain:
        (name,), (target,) = job.methods, job.targets.values()
        step = Step(name, comparison.methods[name], dense.file, folder, target, target)
        return run_step(step, job, comparison, dense)
    start, metrics = dense.file, {}
    for number, name in enumerate(job.methods):
        method = comparison.methods[name]
        target, handed = _chain_step(job, number, comparison, dense, start, metrics)
        step = Step(name, method, start, folder / f"step{number + 1}-{name}", target, handed, number + 1)
        metrics = run_step(step, job, comparison, dense)
        start = step.folder / metrics["file"]
    return metrics


def _chain_step(
    job: Job, number: int, comparison: Comparison, dense: Dense, start: Path, before: dict[str, Any]
) -> tuple[float, float]:
    """(share of the dense network to reach, share of what is handed on): equal factors for the steps that are left."""
    axis = comparison.methods[job.methods[number]].axis
    dense_size = dense.side[axis]
    now = start.stat().st_size if axis == "bytes" else before["compressed"]["macs"] if before else dense_size
    left = sum(comparison.methods[name].axis == axis for name in job.methods[number:])
    handed = (job.targets[axis] * dense_size / now) ** (1 / left)
    if handed >= 1:
        raise UserError(
            f"{job.name}: {job.methods[number]} is handed {now / dense_size:.4f} of the {axis} and should leave more"
        )
    return handed * now / dense_size, handed


def run_step(step: Step, job: Job, comparison: Comparison, dense: Dense) -> dict[str, Any]:
    """One method in a folder of its own; a finished one is only read."""
    run = open_run(
        step.folder, PACKAGE, _options(step, job, comparison, dense), device=dense.device,
        fingerprint=dense.data.fingerprint, force=comparison.force,
    )  # fmt: skip
    if comparison.force:
        shutil.rmtree(step.folder / "method", ignore_errors=True)
    if not run.finished:
        cpu = time.process_time()
        shared = comparison.out / f"seed{job.seed}" / "shared" / step.name
        task = Task(
            step.start, step.folder / "method", dense.data, step.handed, comparison.recipe, dense.device, job.seed,
            shared=shared if step.start == dense.file else step.folder / "shared",
        )  # fmt: skip
        file = step.method.compress(task)
        _finish(run, step, job, comparison, dense, file, cpu)
    return run.metrics()


def _options(step: Step, job: Job, comparison: Comparison, dense: Dense) -> dict[str, Any]:
    return {
        "method": step.name,
        "chain": list(job.methods) if job.is_chain else None,
        "targets": dict(job.targets),
        "seed": job.seed,
        "arch": getattr(dense.model, "architecture", {"arch": None})["arch"],
        "dataset": dense.data.name,
        "start_digest": digest(step.start),
        "finetune": comparison.recipe.identity() | ({"distill": comparison.distill} if comparison.distill else {}),
    }


def _finish(run: Run, step: Step, job: Job, comparison: Comparison, dense: Dense, file: Path, cpu: float) -> None:
    """Measure the method's file, fine-tune where that is due, measure what was written, close the run."""
    model = load_network(file)
    after_cut, decisions = _measure(model, dense, file)
    epochs = (
        0 if step.method.axis == "bytes" else comparison.recipe.epochs
    )  # training would undo what makes a file small
    if epochs:
        written = run.model_path
        recipe, teacher = comparison.recipe, dense.model.to(dense.device, memory_format=torch.channels_last)
        loss = distillation(teacher, comparison.distill, recipe.label_smoothing) if comparison.distill else None
        fit(
            model, dense.data.train, recipe, folder=run.folder,
            device=dense.device, seed=job.seed, workers=comparison.workers, hooks=Hooks(loss=loss),
        )  # fmt: skip
        save_model(written, model.cpu())
        model = load_network(written)
        measured, decisions = _measure(model, dense, written)
    else:
        written, measured = run.folder / f"model{file.suffix}", dict(after_cut)
        write_csv(run.folder / LOG, [])
        with atomic_file(written) as temporary:
            shutil.copyfile(file, temporary)
    baseline = dict(dense.side)
    if comparison.latency:
        timed = latency_ms({"baseline": dense.model, "compressed": model}, dense.data.input_shape, device=dense.device)
        baseline["latency_ms"], measured["latency_ms"] = timed["baseline"], timed["compressed"]
    labels, reference = dense.data.test.labels, dense.accuracy.predictions
    run.finish(
        {
            "baseline": baseline, "after_cut": after_cut, "compressed": measured, "file": written.name,
            **_about(step, job, measured, baseline), "finetune_epochs": epochs,
            "per_class": per_class(labels, decisions, reference, dense.data.num_classes), "classes": dense.data.classes,
            "widths": widths(model, dense.model), "command": _command(job, comparison),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
    )  # fmt: skip


def _measure(model: nn.Module, dense: Dense, file: Path) -> tuple[dict[str, Any], Any]:
    accuracy = dense.measure(model, dense.accuracy.predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not counted is not counted in the dense network either
        return side(model, accuracy, dense.data.input_shape, file.stat().st_size), accuracy.predictions


def _about(step: Step, job: Job, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """What the row is, whether it met its budget, and what must be said of its method."""
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
        "missed": [axis] * (not (1 - MISS) * step.target <= kept[axis] <= (1 + MISS) * step.target)
        + [a for a, aim in job.targets.items() if last and a != axis and abs(kept[a] / aim - 1) > MISS],
        "weights": step.method.weights,
        "trains": step.method.trains,
        "paper": step.method.paper,
    }


def _command(job: Job, comparison: Comparison) -> str:
    """The command that makes this row alone."""
    words = list(comparison.command)
    words += ["--chain", ",".join(job.methods)] if job.is_chain else ["--methods", *job.methods]
    for axis, target in job.targets.items():
        words += [f"--target-{axis}", f"{target:g}"]
    return " ".join([*words, "--seeds", str(job.seed)])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
