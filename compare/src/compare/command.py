"""Run ``python -m compare``: every method at every target, then a table, ``results.csv``, ``report.md`` and ``report.html``."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from common import cli
from common.cli import THREADS
from common.data import DataBundle, load_data
from common.device import THREAD_VARIABLES, choose_device, free_cores, set_threads
from common.errors import RunFolderError, UserError
from common.executor import ProcessPool, claim_file
from common.factory import import_factory
from common.interruption import Stopped
from common.methods import installed_methods
from common.progress import activity, format_duration, say, terminal_setup, use_line
from common.runs import CONFIG, METRICS, read_record, writable_folder
from common.runtimes import TORCH
from common.settings import parse
from common.training.step_time import Speed, measure_speed
from compare import report, text_report
from compare.comparison_jobs import Comparison, ComparisonJob
from compare.dense_networks import (
    DenseNetworks,
    dense_file,
    dense_folder,
    dense_networks,
    describe_dense,
    untrained_network,
)
from compare.estimate import TimeEstimate
from compare.job_loop import run_all
from compare.latency import time_results
from compare.plan import (
    CLAIMS,
    FAILED,
    Plan,
    describe_plan,
    is_finished,
    make_plan,
    missing_results,
    planned_missing,
    write_plan,
)
from compare.recipes import command_arguments, dense_recipe, finetune_recipe, or_default
from compare.result_set import absent_methods, check_variants, read_results
from compare.settings import Compare, finetune_defaults
from compare.settings import main as main


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
    if not settings.execution.no_latency:
        device = choose_device(settings.execution.device)
        try:
            time_results(out, device, settings.network.model, lambda: comparison_data(settings).input_shape)
        except RunFolderError:  # a damaged file, which the report could not read either
            raise
        except UserError as error:  # the results are there, and are reported
            say(f"latency was not measured: {error}")
    if not settings.execution.no_report:
        print_report(out)
    return missing


def _set_up(settings: Compare, plan: Plan) -> tuple[int, int]:
    """Print the plan, choose the numbers of processes and of threads of each, and return them.

    A comparison that resumes keeps its number of threads, on which the last digits of results depend.
    """
    dense = None if dense_file(settings) else dense_recipe(settings)
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
    return run_all(plan.jobs, comparison, dense, _time_estimate(settings, comparison, data, share), share.numbers)


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
        or_default(settings.tuning.distill, finetune_defaults(settings.data.dataset).distill),
        settings.tuning.recalibrate,
        settings.results.latency_batch_size or 1,
        settings.results.latency_runtime or TORCH,
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
    missing = [] if dense_file(settings) else missing
    start = None if seeds[0] in missing else dense(seeds[0])
    if not force and all(is_finished(job, comparison.out) for job in plan.jobs):
        return None
    device = choose_device(settings.execution.device)
    with activity("a training step is timed"):
        recipe = dense_recipe(settings) if start is None else comparison.recipe
        model = untrained_network(settings, data) if start is None else start.copy()
        images = data.train if start is None else start.data.train  # as the network expects them
        speed = measure_speed(model, images, recipe, device, settings.data.workers)
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
        None if dense_file(settings) else dense_recipe(settings),
        comparison.distill > 0,
        len(data.train),
        len(data.test),
        share.speed,
        share.count,
        time.time() if settings.execution.force else 0.0,
    )


def default_jobs(settings: Compare, threads: int | None = None) -> int:
    """Return the number of processes: one per seed, limited by the number of cores; one on an accelerator.

    threads: of each process, if that is not an option.
    """
    if choose_device(settings.execution.device).type != "cpu" or settings.results.target_latency:
        return 1  # a latency is measured on a machine that does nothing else
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
        if not dense_file(settings) and (dense_folder(settings, seed) / METRICS).is_file():
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
