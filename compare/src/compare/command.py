"""Run ``python -m compare``: every method at every target, then a table, ``results.csv``, ``report.md`` and ``report.html``."""

import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import disk_error, write_json, write_text
from common.checkpoint import file_digest
from common.data import DataBundle, load_data
from common.device import choose_device, set_threads
from common.downloads import advise_weights
from common.errors import RunFolderError, UserError
from common.executor import ProcessPool, claim_file
from common.factory import import_factory, model_from_factory, model_from_name
from common.formats import load_network
from common.interruption import Stopped, stop_requested
from common.methods import Method, installed_methods
from common.options import training_values
from common.runs import writable_folder
from common.trained_model import TrainedModel
from common.training import TrainOptions
from compare import report, text_report
from compare.comparison_jobs import (
    Comparison,
    ComparisonJob,
    baseline_recipe,
    comparison_jobs,
    find_method,
    select_methods,
)
from compare.dense import import_dense, train_dense
from compare.job_runner import run_job
from compare.result_set import UNREACHABLE, UNREACHABLE_NAMES, absent_methods, check_variants, read_results
from compare.settings import Compare, finetune_defaults, main

FAILED, CLAIMS = "failed.txt", ".claims"


def run(settings: Compare, argv: Sequence[str] | None) -> None:
    """Run the command. argv: arguments for its worker processes."""
    out = writable_folder(settings.execution.out)
    check_variants(out)
    missing = ""
    if not settings.execution.report_only:
        if settings.execution.force:
            _check_unused(out)
        jobs = settings.execution.jobs or default_jobs(settings)
        failed = compare(settings) if jobs == 1 else _run_in_processes(settings, argv, jobs)
        missing = missing_results(settings)
        if failed and not read_results(out).results:
            raise UserError(missing)
    if not settings.execution.no_report:
        print_report(out, missing)
    if missing:
        raise UserError(missing)


def missing_results(settings: Compare) -> str:
    """Return a sentence on the results that have been tried and are missing; empty if none is.

    Targets that a method cannot reach are left out with ``--accept-unreachable``.
    """
    out, todo = Path(settings.execution.out), _plan(settings)[1]
    kinds = {"failed": (FAILED,)} | (
        {} if settings.execution.accept_unreachable else {"unreachable": UNREACHABLE_NAMES}
    )
    found = {
        kind: [job for job in todo if any((out / f"seed{job.seed}" / job.name / name).is_file() for name in names)]
        for kind, names in kinds.items()
    }
    texts = [
        f"{kind}: {_name_jobs(jobs)} (see {kinds[kind][0]} in their folders)" for kind, jobs in found.items() if jobs
    ]
    count = sum(map(len, found.values()))
    return f"{count} of {len(todo)} results are missing; {'; '.join(texts)}" if count else ""


def _name_jobs(jobs: Sequence[ComparisonJob], shown: int = 8) -> str:
    names = [f"{job.name}, seed {job.seed}" for job in jobs]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _check_unused(out: Path) -> None:
    """Raise UserError if another command is computing a result, which --force would delete."""
    for claim in sorted((out / CLAIMS).glob("*")):
        with claim_file(claim) as free:
            if not free:
                raise RunFolderError(
                    f"{out}: another command is computing {claim.name} in this folder; wait until it ends, or omit --force"
                )


def compare(settings: Compare) -> list[str]:
    """Compute all missing results.

    Returns:
        The names of the results that failed; a failure does not stop the others.
    """
    set_threads(settings.execution.threads)
    device = choose_device(settings.execution.device)
    selected, todo = _plan(settings)
    if settings.network.model:
        import_factory(settings.network.model)  # before the images are read
    comparison = Comparison(
        Path(settings.execution.out),
        selected,
        finetune_recipe(settings),
        command_arguments(settings),
        settings.data.workers,
        settings.execution.force,
        not settings.execution.no_latency,
        _or_default(settings.tuning.distill, finetune_defaults(settings.data.dataset).distill),
        settings.tuning.recalibrate,
    )
    return _run_all(todo, comparison, dense_networks(settings, comparison_data(settings), device))


def default_jobs(settings: Compare) -> int:
    """Return the number of processes: one per seed, limited by the number of cores; one on an accelerator."""
    if choose_device(settings.execution.device).type != "cpu":
        return 1
    return max(1, min(len(settings.results.seeds), torch.get_num_threads() // (settings.execution.threads or 1)))


def comparison_data(settings: Compare) -> DataBundle:
    """Load the images; with ``--holdout``, a part of the training set replaces the test set."""
    data = load_data(settings.data)
    return data if settings.holdout is None else data.holdout(settings.holdout)


def _plan(settings: Compare) -> tuple[dict[str, Method], list[ComparisonJob]]:
    """Return the selected methods and the jobs."""
    installed, chains = installed_methods(), [chain.split(",") for chain in settings.results.chain]
    single = {} if chains and not settings.results.methods else select_methods(installed, settings.results.methods)
    selected = single | {name: find_method(installed, name) for chain in chains for name in chain}
    targets = settings.results.target_macs, settings.results.target_bytes
    todo = comparison_jobs(selected, settings.results.seeds, *targets, chains)
    todo = [job for job in todo if job.is_chain or job.methods[0] in single]
    if not todo:
        raise UserError("nothing to do: no target fits the selected methods; use --target-macs or --target-bytes")
    return selected, todo


def _run_in_processes(settings: Compare, argv: Sequence[str] | None, count: int) -> list[str]:
    """Run the command in several processes that share the cores; each starts at another seed and takes unclaimed jobs."""
    out, seeds = Path(settings.execution.out), settings.results.seeds
    shared = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--force"]
    todo = _plan(settings)[1]
    if settings.execution.force:
        for folder in {out / f"seed{job.seed}" / name for job in todo for name in (job.name, "baseline")}:
            shutil.rmtree(folder, ignore_errors=True)
    threads = settings.execution.threads or max(1, torch.get_num_threads() // count)
    set_threads(threads)  # as in the processes: a seed's dense network must not depend on which process trains it
    # Invalid input is reported here, once.
    finetune_recipe(settings)
    dense_networks(settings, comparison_data(settings), choose_device(settings.execution.device))(seeds[0])
    since = time.time()
    processes: ProcessPool[int] = ProcessPool()
    with processes:
        for i in range(count):
            first = i % len(seeds)
            rotated = [str(seed) for seed in (*seeds[first:], *seeds[:first])]
            own = ["--no-report", "--accept-unreachable", "--jobs", "1", "--threads", str(threads), "--seeds", *rotated]
            processes.start(i, main, [*shared, *own])
        states = {result.state for _, result in processes.finish()}
    if "stopped" in states:
        raise Stopped("stopped")
    if states - {"finished", "invalid"}:
        raise UserError("a worker process was killed; run the same command again to resume")
    tried = [(job, out / f"seed{job.seed}" / job.name / FAILED) for job in todo]
    failed = [f"{job.name}, seed {job.seed}" for job, file in tried if file.is_file() and file.stat().st_mtime >= since]
    if states != {"finished"} and not failed:
        raise UserError("a worker process stopped with the error above")
    return failed


def finetune_recipe(settings: Compare) -> TrainOptions:
    """Return the fine-tuning options, which are the same for every pruned network."""
    dataset, tuning = settings.data.dataset, settings.tuning
    base, defaults = baseline_recipe(dataset), finetune_defaults(dataset)
    return replace(
        base,
        epochs=tuning.finetune_epochs,
        weight_decay=tuning.weight_decay,
        batch_size=tuning.batch_size or base.batch_size,
        learning_rate=_or_default(tuning.learning_rate, defaults.learning_rate),
        schedule=tuning.schedule or defaults.schedule,
        warmup_epochs=_or_default(tuning.warmup_epochs, defaults.warmup_epochs),
        label_smoothing=tuning.label_smoothing,
        amp=tuning.amp,
        **training_values(settings.running),
    )


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def dense_networks(settings: Compare, data: DataBundle, device: torch.device) -> Callable[[int], TrainedModel]:
    """Return a function from a seed to its dense network, given or trained; it keeps the last one in memory."""
    out = Path(settings.execution.out)
    found: dict[int | None, TrainedModel] = {}
    if settings.execution.force:
        for folder in out.glob("seed*/shared"):
            shutil.rmtree(folder)

    def dense(seed: int) -> TrainedModel:
        key = None if settings.network.weights or settings.network.checkpoint else seed
        if key not in found:
            found.clear()
            with claim_file(out / CLAIMS / ("baseline" if key is None else f"seed{seed}-baseline"), wait=True):
                found[key] = _dense(settings, data, device, seed)
        return found[key]

    return dense


def _dense(settings: Compare, data: DataBundle, device: torch.device, seed: int) -> TrainedModel:
    out, network, tuning = Path(settings.execution.out), settings.network, settings.tuning
    file = network.checkpoint or network.weights
    factory = import_factory(network.model, data.num_classes) if network.model else None
    how: dict[str, Any] = {
        "factory": factory,
        "force": settings.execution.force,
        "latency": not settings.execution.no_latency,
        "workers": settings.data.workers,
    }
    if file is None:
        recipe = baseline_recipe(settings.data.dataset)
        epochs = recipe.epochs if network.baseline_epochs is None else network.baseline_epochs
        warmup = min(recipe.warmup_epochs, epochs / 2)
        recipe = replace(
            recipe,
            epochs=epochs,
            warmup_epochs=warmup,
            learning_rate=network.baseline_learning_rate,
            amp=tuning.amp,
            **training_values(settings.running),
        )
        return train_dense(out, network.model or network.arch, data, recipe, device, seed, **how)
    if not Path(file).is_file():
        arch = None if network.model else network.arch
        advice = "give an existing file" if network.checkpoint else advise_weights(file, arch, settings.data.dataset)
        raise UserError(f"{file}: no such file; {advice}")

    def load() -> nn.Module:
        if network.checkpoint:
            return load_network(file, factory)
        if factory:
            return model_from_factory(factory, file)
        return model_from_name(network.arch, file, data.num_classes, data.input_shape)

    return import_dense(out, load, Path(file), file_digest(file), data, device, name=network.model, **how)


def _run_all(todo: Sequence[ComparisonJob], comparison: Comparison, dense: Callable[[int], TrainedModel]) -> list[str]:
    """Run the jobs in order; those that another process has claimed (same method and seed) are checked again later."""
    failed: list[str] = []
    since, start, computed, left = time.time(), time.monotonic(), 0, list(todo)
    done = 0
    while left:
        later = []
        for job in left:
            if stop_requested():
                raise Stopped(f"stopped after {done} of {len(todo)} results")
            with claim_file(comparison.out / CLAIMS / f"seed{job.seed}-{job.methods[0]}") as mine:
                if not mine:
                    later.append(job)
                    continue
                began, folder = time.monotonic(), _folder(job, comparison)
                fresh = not (folder / "metrics.json").is_file()
                outcome = _failed_elsewhere(folder, since) or _try_job(job, comparison, dense, failed)
            computed, done = computed + fresh, done + 1
            now = time.monotonic()
            minutes = (now - start) / max(computed, 1) * (len(todo) - done) / 60
            tail = f"{now - began:.0f} s" + f", about {minutes:.0f} min left" * (fresh and done < len(todo))
            print(f"[{done}/{len(todo)}] seed {job.seed}  {job.name}: {outcome}  ({tail})", flush=True)
        if len(later) == len(left):
            time.sleep(1)
        left = later
    return failed


def _folder(job: ComparisonJob, comparison: Comparison) -> Path:
    return comparison.out / f"seed{job.seed}" / job.name


def _failed_elsewhere(folder: Path, since: float) -> str:
    """Return the file with the reason why another process has computed no result since then; empty if none has tried."""
    tried = [folder / name for name in (UNREACHABLE, FAILED) if (folder / name).is_file()]
    return next((f"another process: see {file}" for file in tried if file.stat().st_mtime >= since), "")


def _try_job(
    job: ComparisonJob, comparison: Comparison, dense: Callable[[int], TrainedModel], failed: list[str]
) -> str:
    """Run a job and summarize its outcome; a result that failed is appended to ``failed``."""
    folder, network = _folder(job, comparison), dense(job.seed)
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
    pruned, small, axis = metrics["after_cut"], metrics["compressed"], metrics["axis"]
    kept = f"{100 * metrics['kept'][axis]:.2f} % of the {'MACs' if axis == 'macs' else axis}"
    arrow = f"{pruned['top1']:.2f} -> {small['top1']:.2f} %" if metrics["finetune_epochs"] else f"{small['top1']:.2f} %"
    return f"{kept}, top-1 {arrow}" + (", target MISSED" if metrics["missed"] else "")


def command_arguments(settings: Compare) -> tuple[str, ...]:
    """Return the command without the options that select single results."""
    data, network, tuning = settings.data, settings.network, settings.tuning
    argv = ["python", "-m", "compare", "--dataset", data.dataset]
    given = {
        "dataset-dir": data.dataset_dir,
        "normalize": data.normalize,
        "holdout": settings.holdout,
        "model": network.model,
        "weights": network.weights,
        "checkpoint": network.checkpoint,
        "baseline-epochs": network.baseline_epochs,
        "batch-size": tuning.batch_size,
        "learning-rate": tuning.learning_rate,
        "schedule": tuning.schedule,
        "warmup-epochs": tuning.warmup_epochs,
        "distill": tuning.distill,
    }
    for name, value in given.items():
        if value is not None:
            argv += [f"--{name}", shlex.quote(str(value))]
    if not network.checkpoint and not network.model:
        argv += ["--arch", network.arch]
    argv += ["--finetune-epochs", str(tuning.finetune_epochs)]
    if tuning.recalibrate:
        argv += ["--recalibrate", str(tuning.recalibrate)]
    if tuning.label_smoothing:
        argv += ["--label-smoothing", str(tuning.label_smoothing)]
    if network.baseline_learning_rate != 0.1:
        argv += ["--baseline-learning-rate", str(network.baseline_learning_rate)]
    if tuning.weight_decay != 5e-4:
        argv += ["--weight-decay", str(tuning.weight_decay)]
    return (*argv, *(["--amp"] if tuning.amp else []))


def print_report(out: Path, incomplete: str = "") -> None:
    """Print the table, write the report's files, and list them. incomplete: sentence on missing results."""
    result_set = replace(read_results(out), incomplete=incomplete)
    known = {name: method.default for name, method in installed_methods().items()}
    result_set = replace(result_set, absent=absent_methods(result_set, known))
    if not result_set.results and result_set.unreachable:
        first = result_set.unreachable[0]
        raise UserError(f"{out}: no finished result; {first['folder']}: {first['reason']}")
    if not result_set.results:
        raise UserError(f"{out}: no finished result; run python -m compare first")
    files = report.write_report(out, result_set)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n" + text_report.terminal_table(result_set, width))
    print("\nFiles:")
    for file, about in files.items():
        print(f"  {file}  {about}")
    print(f"  {out}/seed*/*/  each network with its log and metrics")
