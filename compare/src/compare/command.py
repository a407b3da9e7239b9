"""Run ``python -m compare``: every method at every target, then a table, ``results.csv``, ``report.md`` and ``report.html``."""

import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import cli
from common.atomic import disk_error, write_json, write_text
from common.checkpoint import file_digest
from common.cli import THREADS
from common.data import DataBundle, load_data
from common.device import THREAD_VARIABLES, choose_device, free_cores, set_threads
from common.downloads import advise_weights
from common.errors import RunFolderError, UserError
from common.executor import ProcessPool, claim_file
from common.factory import import_factory, model_from_factory, model_from_name
from common.formats import load_network
from common.interruption import Stopped, stop_requested
from common.limits import Limits
from common.methods import installed_methods
from common.options import training_values
from common.progress import activity, format_duration, say, terminal_setup, use_line
from common.runs import CONFIG, METRICS, read_record, writable_folder
from common.settings import changed_values, option_name, parse
from common.trained_model import TrainedModel, check_compatible
from common.training import TrainOptions
from common.training.step_time import Speed, measure_speed
from compare import report, text_report
from compare.comparison_jobs import Comparison, ComparisonJob, baseline_recipe
from compare.dense import build_dense, import_dense, train_dense
from compare.estimate import TimeEstimate
from compare.job_runner import run_job
from compare.plan import (
    CLAIMS,
    FAILED,
    UNREACHABLE,
    UNREACHABLE_NAMES,
    Plan,
    describe_plan,
    is_finished,
    make_plan,
    missing_results,
    planned_missing,
    write_plan,
)
from compare.result_set import absent_methods, check_variants, read_results
from compare.settings import Compare, finetune_defaults
from compare.settings import main as main

DenseNetworks = Callable[[int], TrainedModel]  # by seed


@dataclass(frozen=True)
class Share:
    """The share of one process in a comparison.

    Attributes:
        number, count: Number of the process, from 0, and of all processes.
        speed: Time of a training step, if it was measured.
        numbers: {(name, seed) of a job: its number in the plan}; each process has an order of its own.
    """

    number: int = 0
    count: int = 1
    speed: Speed | None = None
    numbers: Mapping[tuple[str, int], int] = field(default_factory=dict)


def run(settings: Compare, argv: Sequence[str] | None) -> None:
    """Run the command. argv: arguments for its worker processes."""
    out = writable_folder(settings.execution.out)
    check_variants(out)
    accepted = settings.execution.accept_unreachable
    if settings.execution.report_only:
        print_report(out)
        missing = planned_missing(out, accepted)
    else:
        missing = _compute_and_report(settings, argv, out)
    if missing:
        raise UserError(missing)


def _compute_and_report(settings: Compare, argv: Sequence[str] | None, out: Path) -> str:
    """Compute the results, print the report, and return a sentence on the results that are missing; empty if none is."""
    if settings.execution.force:
        _check_unused(out)
    plan, accepted = _plan(settings), settings.execution.accept_unreachable
    count, threads = _set_up(settings, plan)
    write_plan(out, plan.jobs, accepted)
    with _counting_finished(plan.jobs, out):
        failed = compare(settings) if count == 1 else _run_in_processes(settings, argv, count, threads)
    missing = missing_results(plan.jobs, out, [accepted] * len(plan.jobs))
    if failed and not read_results(out).results:
        raise UserError(missing)
    if not settings.execution.no_report:
        print_report(out)
    return missing


def _set_up(settings: Compare, plan: Plan) -> tuple[int, int]:
    """Print the plan, choose the numbers of processes and of threads of each, and return them.

    A comparison that resumes keeps its number of threads, on which the last digits of results depend.
    """
    dense = None if _dense_file(settings) else dense_recipe(settings)
    for line in describe_plan(plan, settings, dense, finetune_recipe(settings)):
        say(line)
    given, out = settings.execution.threads, Path(settings.execution.out)
    cores, about = free_cores()
    chosen = given or settings.execution.force or about in THREAD_VARIABLES
    known = None if chosen else recorded_threads(out)
    set_threads(cores)
    jobs = settings.execution.jobs or default_jobs(settings, known)
    threads = given or known or max(1, cores // jobs)
    about = "--threads" if given else f"as in {out}" if known else about
    each = f" in each of {jobs} processes" if jobs > 1 else ""
    say(f"  threads: {threads}{each} ({about})")
    set_threads(threads)
    return jobs, threads


def recorded_threads(out: Path) -> int | None:
    """Return the number of threads with which the dense network or a result in a folder was computed; None if there is none."""
    for config in (*out.glob(f"baseline/{CONFIG}"), *out.glob(f"seed*/*/{CONFIG}")):
        if (config.parent / METRICS).is_file():
            found = read_record(config)
            threads = found["environment"].get("threads") if isinstance(found.get("environment"), dict) else None
            if type(threads) is int and threads in THREADS:
                return threads
    return None


def _check_unused(out: Path) -> None:
    """Raise UserError if another command is computing a result, which --force would delete."""
    for claim in sorted((out / CLAIMS).glob("*")):
        with claim_file(claim) as free:
            if not free:
                raise RunFolderError(
                    f"{out}: another command is computing {claim.name} in this folder; wait until it ends, or omit --force"
                )


def compare(settings: Compare, share: Share | None = None) -> list[str]:
    """Compute all missing results. share: of this process, if it is one of several.

    Returns:
        The names of the results that failed; a failure does not stop the others.
    """
    if share is not None:
        set_threads(settings.execution.threads)
    plan = _plan(settings)
    comparison, data, dense = _open(settings, plan, share is not None)
    share = share or Share(speed=_estimate(settings, plan, comparison, data, dense))
    return _run_all(plan.jobs, comparison, dense, _time_estimate(settings, comparison, data, share), share.numbers)


def _open(settings: Compare, plan: Plan, quiet: bool = False) -> tuple[Comparison, DataBundle, DenseNetworks]:
    """Read the data and return what the results of a comparison share. quiet: see :func:`dense_networks`."""
    device = choose_device(settings.execution.device)
    if settings.network.model:
        import_factory(settings.network.model)  # before the images are read
    comparison = Comparison(
        Path(settings.execution.out),
        plan.methods,
        finetune_recipe(settings),
        command_arguments(settings),
        settings.data.workers,
        settings.execution.force,
        not settings.execution.no_latency,
        _or_default(settings.tuning.distill, finetune_defaults(settings.data.dataset).distill),
        settings.tuning.recalibrate,
    )
    data = comparison_data(settings)
    return comparison, data, dense_networks(settings, data, device, quiet)


def _estimate(
    settings: Compare, plan: Plan, comparison: Comparison, data: DataBundle, dense: DenseNetworks, processes: int = 1
) -> Speed | None:
    """Measure a training step, print about how long the comparison takes, and provide the first dense network.

    Returns:
        What was measured; None if all results are finished.
    """
    seeds, force = list(dict.fromkeys(job.seed for job in plan.jobs)), settings.execution.force
    missing = [seed for seed in seeds if force or not (dense_folder(settings, seed) / METRICS).is_file()]
    missing = [] if _dense_file(settings) else missing
    start = None if seeds[0] in missing else dense(seeds[0])
    if not force and all(is_finished(job, comparison.out) for job in plan.jobs):
        return None
    device = choose_device(settings.execution.device)
    with activity("a training step is timed"):
        recipe = dense_recipe(settings) if start is None else comparison.recipe
        model = _untrained(settings, data) if start is None else start.copy()
        speed = measure_speed(model, data.train, recipe, device, settings.data.workers)
    times = _time_estimate(settings, comparison, data, Share(count=processes, speed=speed))
    assert times is not None
    say(
        f"  time: about {format_duration(times.left(plan.jobs))} on this machine ({device}, "
        f"{1000 * speed.second_per_example:.2g} ms/image in training); it is corrected by what is measured"
    )
    dense(seeds[0])
    return speed


def _time_estimate(settings: Compare, comparison: Comparison, data: DataBundle, share: Share) -> TimeEstimate | None:
    if share.speed is None:
        return None
    return TimeEstimate(
        comparison.out,
        comparison.methods,
        comparison.recipe,
        None if _dense_file(settings) else dense_recipe(settings),
        comparison.distill > 0,
        len(data.train),
        len(data.test),
        share.speed,
        comparison.latency,
        share.count,
        time.time() if settings.execution.force else 0.0,
    )


def default_jobs(settings: Compare, threads: int | None = None) -> int:
    """Return the number of processes: one per seed, limited by the number of cores; one on an accelerator.

    threads: of each process, if that is not an option.
    """
    if choose_device(settings.execution.device).type != "cpu":
        return 1
    each = settings.execution.threads or threads or 1
    return max(1, min(len(settings.results.seeds), torch.get_num_threads() // each))


def comparison_data(settings: Compare) -> DataBundle:
    """Load the images; with ``--holdout``, a part of the training set replaces the test set."""
    with activity(f"reading {settings.data.dataset}"):
        data = load_data(settings.data)
    return data if settings.holdout is None else data.holdout(settings.holdout)


def _plan(settings: Compare) -> Plan:
    return make_plan(settings, installed_methods())


def _run_in_processes(settings: Compare, argv: Sequence[str] | None, count: int, threads: int) -> list[str]:
    """Run the command in several processes that share the cores; each starts at another seed and takes unclaimed jobs."""
    out, seeds = Path(settings.execution.out), settings.results.seeds
    shared = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--force"]
    plan = _plan(settings)
    todo = plan.jobs
    if settings.execution.force:
        for folder in {out / f"seed{job.seed}" / name for job in todo for name in (job.name, "baseline")}:
            shutil.rmtree(folder, ignore_errors=True)
    # Invalid input is reported here, once; with the threads of the processes: a seed's dense network must not depend on
    # which process trains it.
    comparison, data, dense = _open(settings, plan)
    speed = _estimate(settings, plan, comparison, data, dense, count)
    for seed in seeds[1:]:
        if not _dense_file(settings) and (dense_folder(settings, seed) / METRICS).is_file():
            say(describe_dense(dense_folder(settings, seed), seed))
    say(f"{count} processes start" if count > 1 else "1 process starts")
    since, numbers = time.time(), {(job.name, job.seed): number for number, job in enumerate(todo, 1)}
    processes: ProcessPool[int] = ProcessPool(setup=terminal_setup())
    with processes:
        for i in range(count):
            first = i % len(seeds)
            rotated = [str(seed) for seed in (*seeds[first:], *seeds[:first])]
            own = ["--no-report", "--accept-unreachable", "--jobs", "1", "--threads", str(threads), "--seeds", *rotated]
            processes.start(i, work_in_process, [*shared, *own], Share(i, count, speed, numbers))
        results = []
        for _, result in processes.finish():
            results.append(result)
            if result.status and cli.is_output_closed():  # nobody reads; the others would notice later
                processes.stop()
    states = {result.state for result in results}
    if states != {"finished"} and cli.is_output_closed():
        raise BrokenPipeError
    if "stopped" in states:
        raise Stopped("stopped")
    if states - {"finished", "invalid"}:
        raise UserError(
            f"a worker process was killed; {_count_finished(todo, out)}; run the same command again to resume"
        )
    tried = [(job, out / f"seed{job.seed}" / job.name / FAILED) for job in todo]
    failed = [f"{job.name}, seed {job.seed}" for job, file in tried if file.is_file() and file.stat().st_mtime >= since]
    if states != {"finished"} and not failed:
        raise UserError("a worker process stopped with the error above")
    return failed


def work_in_process(argv: Sequence[str], share: Share) -> int:
    """Compute the share of one process of a comparison and return its exit status."""
    use_line(share.number)
    return cli.run(lambda words: (compare(parse(Compare, words), share), None)[1], argv)


def _count_finished(jobs: Sequence[ComparisonJob], out: Path) -> str:
    return f"{sum(is_finished(job, out) for job in jobs)} of {len(jobs)} results are finished"


@contextmanager
def _counting_finished(jobs: Sequence[ComparisonJob], out: Path) -> Iterator[None]:
    """Say how many results are finished when the work is interrupted (context manager)."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(f"{str(error) or 'interrupted'}; {_count_finished(jobs, out)}") from error


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


def dense_networks(settings: Compare, data: DataBundle, device: torch.device, quiet: bool = False) -> DenseNetworks:
    """Return a function from a seed to its dense network, given or trained; it keeps the last one in memory.

    What was measured on it is printed; if ``quiet``, only when this process has trained it.
    """
    out = Path(settings.execution.out)
    found: dict[int | None, TrainedModel] = {}
    if settings.execution.force:
        for folder in out.glob("seed*/shared"):
            shutil.rmtree(folder)

    def dense(seed: int) -> TrainedModel:
        key = None if _dense_file(settings) else seed
        if key not in found:
            found.clear()
            place = dense_folder(settings, seed)
            with claim_file(out / CLAIMS / ("baseline" if key is None else f"seed{seed}-baseline"), wait=True):
                new = settings.execution.force or not (place / METRICS).is_file()
                with activity("dense network" + ("" if key is None else f", seed {seed}")):
                    found[key] = _limited(settings, _dense(settings, data, device, seed))
            if new or not quiet:
                say(describe_dense(place, key))
        return found[key]

    return dense


def dense_folder(settings: Compare, seed: int) -> Path:
    """Return the folder of a seed's dense network; if it is given, that of all seeds."""
    out = Path(settings.execution.out)
    return out / "baseline" if _dense_file(settings) else out / f"seed{seed}" / "baseline"


def describe_dense(folder: Path, seed: int | None) -> str:
    """Return a line on what was measured on a dense network."""
    record = read_record(folder / METRICS)
    found = record["baseline"]
    name = "Dense network" + ("" if seed is None else f", seed {seed}")
    chance = "; AT CHANCE LEVEL: train it first, or check the classes and the normalization"
    line = f"{name}: top-1 {found['top1']:.2f} %, {found['macs']:,} MACs, {found['bytes']:,} bytes"
    return line + (chance if record.get("at_chance") else "")


def _dense_file(settings: Compare) -> str | None:
    return settings.network.checkpoint or settings.network.weights


def dense_recipe(settings: Compare) -> TrainOptions:
    """Return the training options of the dense network."""
    recipe, network = baseline_recipe(settings.data.dataset), settings.network
    epochs = recipe.epochs if network.baseline_epochs is None else network.baseline_epochs
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=min(recipe.warmup_epochs, epochs / 2),
        learning_rate=network.baseline_learning_rate,
        amp=settings.tuning.amp,
        **training_values(settings.running),
    )


def _untrained(settings: Compare, data: DataBundle) -> nn.Module:
    """Return a dense network that is not trained. Raises UserError if it does not fit the data."""
    network = settings.network
    factory = import_factory(network.model, data.num_classes) if network.model else None
    model = build_dense(network.arch, data, factory)
    check_compatible(model, data, network.model or network.arch)
    return model


def _limited(settings: Compare, dense: TrainedModel) -> TrainedModel:
    """Return the network with the limits of the options. Raises UserError if a pattern matches no layer."""
    given = changed_values(settings.limits)
    limits = Limits.of(dense.model, dense.all_groups, **given, option=option_name) if given else dense.limits
    return replace(dense, limits=limits) if given else dense


def _dense(settings: Compare, data: DataBundle, device: torch.device, seed: int) -> TrainedModel:
    out, network = Path(settings.execution.out), settings.network
    file = _dense_file(settings)
    factory = import_factory(network.model, data.num_classes) if network.model else None
    how: dict[str, Any] = {
        "factory": factory,
        "force": settings.execution.force,
        "latency": not settings.execution.no_latency,
        "workers": settings.data.workers,
    }
    if file is None:
        return train_dense(out, network.model or network.arch, data, dense_recipe(settings), device, seed, **how)
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


def _run_all(
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
        "split": data.images.split,
        "image-size": data.images.image_size,
        "resize": data.images.resize,
        "channels": data.images.channels,
        "classes": data.images.classes,
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
    for name, value in changed_values(settings.limits).items():
        argv += [option_name(name), *(shlex.quote(str(one)) for one in (value if isinstance(value, list) else [value]))]
    return (*argv, *(["--amp"] if tuning.amp else []))


def print_report(out: Path) -> None:
    """Print the table, write the report's files, and list them."""
    result_set = read_results(out)
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
    print(f"  {out}/seed*/*/model.*  network of each result, fine-tuned; files in folders inside are steps of a method")
