"""Run the jobs of a comparison in order; a result that cannot be computed does not stop the others."""

import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic import disk_error, write_json, write_text
from common.errors import RunFolderError, UserError
from common.executor import claim_file
from common.interruption import Stopped, stop_requested
from common.progress import activity, format_duration, say
from common.trained_model import TrainedModel
from compare.comparison_jobs import Comparison, ComparisonJob
from compare.dense_networks import DenseNetworks
from compare.estimate import TimeEstimate
from compare.job_runner import run_job
from compare.plan import CLAIMS, FAILED, UNREACHABLE, UNREACHABLE_NAMES, is_finished


def run_all(
    todo: Sequence[ComparisonJob],
    comparison: Comparison,
    dense: DenseNetworks,
    times: TimeEstimate | None,
    numbers: Mapping[tuple[str, int], int],
) -> list[str]:
    """Run the jobs in order; those that another process has claimed (same method and seed) are checked again later.

    numbers: those of the jobs, in a process of several, which does not print what others have finished.
    """
    failed: list[str] = []
    since, left = time.time(), [(numbers.get((job.name, job.seed), i), job) for i, job in enumerate(todo, 1)]
    while left:
        later = []
        for number, job in left:
            if stop_requested():
                raise Stopped("stopped")
            with claim_file(comparison.out / CLAIMS / f"seed{job.seed}-{job.methods[0]}") as mine:
                if not mine:
                    later.append((number, job))
                    continue
                folder, label = _folder(job, comparison), f"[{number}/{len(todo)}] seed {job.seed}  {job.name}"
                fresh = comparison.force or not is_finished(job, comparison.out)
                network, began = dense(job.seed), time.monotonic()
                with activity(label):
                    outcome = _failed_elsewhere(folder, since) or _try_job(job, comparison, network, failed)
            if fresh or not numbers:
                tail = f"{time.monotonic() - began:.0f} s{_time_left(todo, times)}" if fresh else "finished before"
                say(f"{label}: {outcome}  ({tail})")
        if len(later) == len(left):
            time.sleep(1)
        left = later
    return failed


def _time_left(jobs: Sequence[ComparisonJob], times: TimeEstimate | None) -> str:
    """Return how many results are missing and about how long they take; empty if none is."""
    seconds = 0.0 if times is None else times.left(jobs)
    return f", about {format_duration(seconds)} left" if seconds else ""


def _folder(job: ComparisonJob, comparison: Comparison) -> Path:
    return comparison.out / f"seed{job.seed}" / job.name


def _failed_elsewhere(folder: Path, since: float) -> str:
    """Return the file with the reason why another process has computed no result since then; empty if none has tried."""
    tried = [folder / name for name in (UNREACHABLE, FAILED) if (folder / name).is_file()]
    return next((f"another process: see {file}" for file in tried if file.stat().st_mtime >= since), "")


def _try_job(job: ComparisonJob, comparison: Comparison, network: TrainedModel, failed: list[str]) -> str:
    """Run a job and summarize its outcome; a result that failed is appended to ``failed``."""
    folder = _folder(job, comparison)
    for name in (*UNREACHABLE_NAMES, FAILED):
        (folder / name).unlink(missing_ok=True)
    try:
        return _summary(run_job(job, comparison, network))
    except RunFolderError:  # invalid input, not an outcome of the job
        raise
    except UserError as error:
        write_json(folder / UNREACHABLE, {"job": _job_record(job), "reason": str(error)})
        return f"unreachable: {error}"
    except Exception as error:  # a bug in one method does not stop the others
        if disk_error(error) is not None:  # it would stop the others as well
            raise
        write_text(folder / FAILED, traceback.format_exc())
        failed.append(f"{job.name}, seed {job.seed}")
        return f"failed: {type(error).__name__}: {error}"


def _job_record(job: ComparisonJob) -> dict[str, Any]:
    return {"methods": list(job.methods), "targets": dict(job.targets), "seed": job.seed}


def _summary(metrics: dict[str, Any]) -> str:
    pruned, small, axis = metrics["after_cut"], metrics["compressed"], metrics["axis"] or "bytes"
    kept = f"{100 * metrics['kept'][axis]:.2f} % of the {'MACs' if axis == 'macs' else axis}"
    arrow = f"{pruned['top1']:.2f} -> {small['top1']:.2f} %" if metrics["finetune_epochs"] else f"{small['top1']:.2f} %"
    return f"{kept}, top-1 {arrow}" + (", target MISSED" if metrics["missed"] else "")
