"""``python -m compare``: every installed method at every budget, then one table, ``results.csv``, ``report.md`` and ``report.html``."""

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

from common.atomic import write_json, write_text
from common.checkpoint import file_digest, load_tensors, read_tensors
from common.data import DataBundle, load_data
from common.device import choose_device, set_threads
from common.errors import UserError
from common.executor import Processes, claimed
from common.factory import import_factory, named_model
from common.formats import load_network
from common.interruption import Stopped, stop_requested
from common.methods import Method, methods
from common.options import training_values
from common.runs import writable_folder
from common.trained_model import TrainedModel
from compare import plan, report, text
from compare.dense import given_dense, train_dense
from compare.plan import Comparison, Job
from compare.row import run_job
from compare.rows import read_rows
from compare.settings import Compare, main, usual_recipe

REFUSED, FAILED, CLAIMS = "refused.json", "failed.txt", ".claims"


def run(settings: Compare, argv: Sequence[str] | None) -> None:
    """The command; ``argv`` is what its processes are called with."""
    out = writable_folder(settings.run.out)
    failed: list[str] = []
    if not settings.run.report_only:
        jobs = settings.run.jobs or usual_jobs(settings)
        failed = compare(settings) if jobs == 1 else _in_processes(settings, argv, jobs)
    if not settings.run.no_report:
        print_report(out)
    if failed:
        raise UserError(f"{len(failed)} rows failed: {', '.join(failed)}; {FAILED} in their folders says why")


def compare(settings: Compare) -> list[str]:
    """Make all rows that are not there; the names of those that failed. One row's failure does not stop the others."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    wanted, todo = _planned(settings)
    comparison = Comparison(
        Path(settings.run.out),
        wanted,
        finetune_recipe(settings),
        command_words(settings),
        settings.data.workers,
        settings.run.force,
        not settings.run.no_latency,
        _given(settings.tuning.distill, usual_recipe(settings.data.dataset).distill),
        settings.tuning.recalibrate,
    )
    return _run_all(todo, comparison, dense_networks(settings, comparison_data(settings), device))


def usual_jobs(settings: Compare) -> int:
    """One process for each seed, as far as there are cores for its threads; one on an accelerator."""
    if choose_device(settings.run.device).type != "cpu":
        return 1
    return max(1, min(len(settings.rows.seeds), torch.get_num_threads() // (settings.run.threads or 1)))


def comparison_data(settings: Compare) -> DataBundle:
    """The pictures of a comparison; with ``--holdout`` a part of the training pictures stands for the test set."""
    data = load_data(settings.data)
    return data if settings.holdout is None else data.holdout(settings.holdout)


def _planned(settings: Compare) -> tuple[dict[str, Method], list[Job]]:
    wanted = plan.chosen_methods(methods(), _names(settings))
    chains = [chain.split(",") for chain in settings.rows.chain]
    for chain in chains:
        plan.chosen_methods(wanted, chain)
    single = settings.rows.methods or ([] if chains else list(wanted))
    todo = plan.jobs(wanted, settings.rows.seeds, settings.rows.target_macs, settings.rows.target_bytes, chains)
    todo = [job for job in todo if job.is_chain or job.methods[0] in single]
    if not todo:
        raise UserError("nothing to do: give a budget that the chosen methods aim at (--target-macs, --target-bytes)")
    return wanted, todo


def _in_processes(settings: Compare, argv: Sequence[str] | None, count: int) -> list[str]:
    """The same command several times, the cores shared out: each begins at another seed and takes what nobody is making."""
    out, seeds = Path(settings.run.out), settings.rows.seeds
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--force"]
    todo = _planned(settings)[1]
    if settings.run.force:
        for folder in {out / f"seed{job.seed}" / name for job in todo for name in (job.name, "baseline")}:
            shutil.rmtree(folder, ignore_errors=True)
    threads = settings.run.threads or max(1, torch.get_num_threads() // count)
    set_threads(threads)  # as each process: the network of a seed does not depend on who trains it
    finetune_recipe(settings)
    dense_networks(settings, comparison_data(settings), choose_device(settings.run.device))(
        seeds[0]
    )  # a mistake is told once
    since = time.time()
    processes: Processes[int] = Processes()
    with processes:
        for i in range(count):
            first = i % len(seeds)
            turned = [str(seed) for seed in (*seeds[first:], *seeds[:first])]
            own = ["--no-report", "--jobs", "1", "--threads", str(threads), "--seeds", *turned]
            processes.start(i, main, [*words, *own])
        states = {result.state for _, result in processes.finish()}
    if "stopped" in states:
        raise Stopped("stopped")
    if states - {"finished", "invalid"}:
        raise UserError("a process was stopped; the same command goes on where it was")
    tried = [(job, out / f"seed{job.seed}" / job.name / FAILED) for job in todo]
    failed = [f"{job.name}, seed {job.seed}" for job, file in tried if file.is_file() and file.stat().st_mtime >= since]
    if states != {"finished"} and not failed:
        raise UserError("stopped by the mistake told above")
    return failed


def _names(settings: Compare) -> list[str] | None:
    """Methods that are named at all: those of the chains too."""
    if settings.rows.methods is None:
        return None
    return list(
        dict.fromkeys([*settings.rows.methods, *(name for chain in settings.rows.chain for name in chain.split(","))])
    )


def finetune_recipe(settings: Compare):
    """The one recipe that every cut network is trained by."""
    dataset, tuning = settings.data.dataset, settings.tuning
    base, usual = plan.baseline_recipe(dataset), usual_recipe(dataset)
    return replace(
        base,
        epochs=tuning.finetune_epochs,
        weight_decay=tuning.weight_decay,
        batch_size=tuning.batch_size or base.batch_size,
        learning_rate=_given(tuning.learning_rate, usual.learning_rate),
        schedule=tuning.schedule or usual.schedule,
        warmup_epochs=_given(tuning.warmup_epochs, usual.warmup_epochs),
        label_smoothing=tuning.label_smoothing,
        amp=tuning.amp,
        **training_values(settings.running),
    )


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value


def dense_networks(settings: Compare, data: DataBundle, device: torch.device) -> Callable[[int], TrainedModel]:
    """seed -> its dense network; the one that was given, or one trained for each seed. The last one is remembered."""
    out = Path(settings.run.out)
    found: dict[int | None, TrainedModel] = {}
    if settings.run.force:
        for folder in out.glob("seed*/shared"):
            shutil.rmtree(folder)

    def dense(seed: int) -> TrainedModel:
        key = None if settings.network.weights or settings.network.baseline else seed
        if key not in found:
            found.clear()
            with claimed(out / CLAIMS / ("baseline" if key is None else f"seed{seed}-baseline"), wait=True):
                found[key] = _dense(settings, data, device, seed)
        return found[key]

    return dense


def _dense(settings: Compare, data: DataBundle, device: torch.device, seed: int) -> TrainedModel:
    out, network, tuning = Path(settings.run.out), settings.network, settings.tuning
    if network.baseline and network.weights:
        raise UserError("--baseline and --weights: give one of them")
    file = network.baseline or network.weights
    factory = import_factory(network.model, data.num_classes) if network.model else None
    how: dict[str, Any] = {
        "factory": factory,
        "force": settings.run.force,
        "latency": not settings.run.no_latency,
        "workers": settings.data.workers,
    }
    if file is None:
        recipe = plan.baseline_recipe(settings.data.dataset)
        epochs = recipe.epochs if network.baseline_epochs is None else network.baseline_epochs
        warmup = min(recipe.warmup_epochs, epochs / 2)
        recipe = replace(
            recipe, epochs=epochs, warmup_epochs=warmup, amp=tuning.amp, **training_values(settings.running)
        )
        return train_dense(out, network.model or network.arch, data, recipe, device, seed, **how)
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file")

    def load() -> nn.Module:
        if network.baseline:
            return load_network(file, factory)
        if factory:
            model = factory()
            load_tensors(model, read_tensors(file), file)
            return model
        return named_model(network.arch, file, data.num_classes, data.input_shape)

    return given_dense(out, load, Path(file), file_digest(file), data, device, name=network.model, **how)


def _run_all(todo: Sequence[Job], comparison: Comparison, dense: Callable[[int], TrainedModel]) -> list[str]:
    """Row after row. What another process is at (the same method and seed) is looked at again later."""
    failed: list[str] = []
    since, start, made, left = time.time(), time.monotonic(), 0, list(todo)
    done = 0
    while left:
        later = []
        for job in left:
            if stop_requested():
                raise Stopped(f"stopped after {done} of {len(todo)} results")
            with claimed(comparison.out / CLAIMS / f"seed{job.seed}-{job.methods[0]}") as mine:
                if not mine:
                    later.append(job)
                    continue
                began, folder = time.monotonic(), _folder(job, comparison)
                fresh = not (folder / "metrics.json").is_file()
                outcome = _given_up(folder, since) or _attempt(job, comparison, dense, failed)
            made, done = made + fresh, done + 1
            now = time.monotonic()
            minutes = (now - start) / max(made, 1) * (len(todo) - done) / 60
            tail = f"{now - began:.0f} s" + f", about {minutes:.0f} min left" * (fresh and done < len(todo))
            print(f"[{done}/{len(todo)}] seed {job.seed}  {job.name}: {outcome}  ({tail})", flush=True)
        if len(later) == len(left):
            time.sleep(1)
        left = later
    return failed


def _folder(job: Job, comparison: Comparison) -> Path:
    return comparison.out / f"seed{job.seed}" / job.name


def _given_up(folder: Path, since: float) -> str:
    """Why another process made no row here since then; empty if none tried."""
    tried = [folder / name for name in (REFUSED, FAILED) if (folder / name).is_file()]
    return next((f"another process: see {file}" for file in tried if file.stat().st_mtime >= since), "")


def _attempt(job: Job, comparison: Comparison, dense: Callable[[int], TrainedModel], failed: list[str]) -> str:
    """What came of a row, in words; a row that broke is added to ``failed``."""
    folder, network = _folder(job, comparison), dense(job.seed)
    for name in (REFUSED, FAILED):
        (folder / name).unlink(missing_ok=True)
    try:
        return _said(run_job(job, comparison, network))
    except UserError as error:
        if "--force" in str(error):  # a folder of other options: a mistake, not a result
            raise
        write_json(folder / REFUSED, {"job": _plain(job), "reason": str(error)})
        return f"refused: {error}"
    except Exception as error:  # somebody else's method: the others go on
        write_text(folder / FAILED, traceback.format_exc())
        failed.append(f"{job.name}, seed {job.seed}")
        return f"failed: {type(error).__name__}: {error}"


def _plain(job: Job) -> dict[str, Any]:
    return {"methods": list(job.methods), "targets": dict(job.targets), "seed": job.seed}


def _said(metrics: dict[str, Any]) -> str:
    cut, small, axis = metrics["after_cut"], metrics["compressed"], metrics["axis"]
    kept = f"{100 * metrics['kept'][axis]:.2f} % of the {'MACs' if axis == 'macs' else axis}"
    arrow = f"{cut['top1']:.2f} -> {small['top1']:.2f} %" if metrics["finetune_epochs"] else f"{small['top1']:.2f} %"
    return f"{kept}, top-1 {arrow}" + (", MISSES its budget" if metrics["missed"] else "")


def command_words(settings: Compare) -> tuple[str, ...]:
    """The command without what names single rows: enough to make one again."""
    data, network, tuning = settings.data, settings.network, settings.tuning
    words = ["python", "-m", "compare", "--dataset", data.dataset]
    given = {
        "dataset-dir": data.dataset_dir,
        "normalize": data.normalize,
        "holdout": settings.holdout,
        "model": network.model,
        "weights": network.weights,
        "baseline": network.baseline,
        "baseline-epochs": network.baseline_epochs,
        "batch-size": tuning.batch_size,
        "learning-rate": tuning.learning_rate,
        "schedule": tuning.schedule,
        "warmup-epochs": tuning.warmup_epochs,
        "distill": tuning.distill,
    }
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", shlex.quote(str(value))]
    if not network.baseline and not network.model:
        words += ["--arch", network.arch]
    words += ["--finetune-epochs", str(tuning.finetune_epochs)]
    if tuning.recalibrate:
        words += ["--recalibrate", str(tuning.recalibrate)]
    if tuning.label_smoothing:
        words += ["--label-smoothing", str(tuning.label_smoothing)]
    if tuning.weight_decay != 5e-4:
        words += ["--weight-decay", str(tuning.weight_decay)]
    return (*words, *(["--amp"] if tuning.amp else []))


def print_report(out: Path) -> None:
    """One table on the terminal, the three files of the report, and where everything is."""
    rows = read_rows(out)
    if not rows.metrics and rows.refused:
        raise UserError(f"{out} holds no finished row; {rows.refused[0]['folder']}: {rows.refused[0]['reason']}")
    if not rows.metrics:
        raise UserError(f"{out} holds no finished row: run python -m compare first")
    files = report.write(out, rows)
    print("\n" + text.terminal(rows))
    print("\nFiles:")
    for file, about in files.items():
        print(f"  {file}  {about}")
    print(f"  {out}/seed*/*/  each network with its log and its figures")
