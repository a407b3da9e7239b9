"""``python -m compare``: every installed method at every budget, then one table, ``results.csv``, ``report.md`` and ``report.html``."""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_json, write_text
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.errors import UserError
from common.factory import import_factory, named_model
from common.formats import load_network
from common.interruption import STOPPED, Stopped, stop_requested
from common.methods import Method, methods
from common.models import ARCHITECTURES, Architecture
from common.runs import writable_folder
from common.training import add_running_options, running_options
from common.training.options import SCHEDULES
from compare import plan, report, text
from compare.claim import claimed
from compare.plan import Comparison, Job
from compare.row import PACKAGE, digest, run_job
from compare.rows import read_rows
from compare.subject import Dense, given_dense, train_dense

REFUSED, FAILED, CLAIMS = "refused.json", "failed.txt", ".claims"


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m compare", package=PACKAGE,
        description="Compress one network with every installed method to the same budgets, fine-tune all alike, and report.",
    )  # fmt: skip
    cli.add_data_options(parser)
    parser.add_argument(
        "--holdout",
        type=cli.fraction,
        default=None,
        metavar="F",
        help="train without this share of the training pictures and measure on it instead of the test set: for choices",
    )
    network = parser.add_argument_group("network")
    network.add_argument("--arch", default="resnet20", help=f"one of {', '.join(ARCHITECTURES)}")
    network.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY, your own network, instead of --arch")
    network.add_argument(
        "--weights", default=None, help="trained weights of --arch or --model; without them it is trained first"
    )
    network.add_argument("--baseline", default=None, help="a trained checkpoint of this project, instead of --arch")
    network.add_argument(
        "--baseline-epochs", type=int, default=None, help="epochs of its training; 6 for digits, else 30"
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--methods", nargs="+", default=None, help="names of methods; all that are installed if not given"
    )
    rows.add_argument(
        "--target-macs", type=cli.fraction, nargs="*", default=[0.7, 0.5, 0.3], help="shares of the MACs to keep"
    )
    rows.add_argument(
        "--target-bytes",
        type=cli.fraction,
        nargs="*",
        default=[0.1, 0.05, 0.03],
        help="shares of the file's bytes to keep",
    )
    rows.add_argument(
        "--seeds", type=cli.not_negative_int, nargs="+", default=[0, 1, 2], help="a network and a row of each"
    )
    rows.add_argument(
        "--chain", action="append", default=[], metavar="A,B,C", help="methods one after the other; may be repeated"
    )
    tuning = parser.add_argument_group("fine-tuning, the same for all")
    tuning.add_argument("--finetune-epochs", type=int, default=2, help="0 leaves every network as it was cut")
    tuning.add_argument("--batch-size", type=cli.positive_int, default=None, help="64 for digits, else 128")
    tuning.add_argument("--learning-rate", type=float, default=None, help="0.05 for digits, else 0.02")
    tuning.add_argument("--weight-decay", type=float, default=5e-4, help="weight decay")
    tuning.add_argument(
        "--schedule", choices=SCHEDULES, default=None, help="of the learning rate; cosine for digits, else linear"
    )
    tuning.add_argument(
        "--warmup-epochs", type=float, default=None, help="epochs of linear warm-up; 0 for digits, else 0.5"
    )
    tuning.add_argument("--label-smoothing", type=float, default=0.0, help="label smoothing")
    tuning.add_argument(
        "--distill", type=weight, default=None, metavar="W",
        help="weight of the distance to the dense network's outputs in the loss, the rest is cross-entropy; "
        "0 for digits, else 0.9",
    )  # fmt: skip
    tuning.add_argument("--amp", action="store_true", help="automatic mixed precision (bfloat16)")
    run = parser.add_argument_group("run")
    run.add_argument("--out", default="runs/compare", help="folder of the rows and the report")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    run.add_argument("--threads", type=int, default=None, help="threads on the CPU; torch's choice if not given")
    run.add_argument(
        "--jobs", type=cli.positive_int, default=None,
        help="processes that share out the rows; on a CPU one for each seed, as far as there are cores; else one",
    )  # fmt: skip
    run.add_argument("--force", action="store_true", help="make rows anew that are there with other options")
    run.add_argument("--no-latency", action="store_true", help="do not measure latency")
    run.add_argument("--no-report", action="store_true", help="only the rows; --report-only makes the report later")
    run.add_argument("--report-only", action="store_true", help="compress nothing: a report on the rows that are there")
    add_running_options(parser)
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    out = writable_folder(args.out)
    failed: list[str] = []
    if not args.report_only:
        args.jobs = args.jobs or usual_jobs(args)
        failed = compare(args) if args.jobs == 1 else _in_processes(args, argv)
    if not args.no_report:
        print_report(out)
    if failed:
        raise UserError(f"{len(failed)} rows failed: {', '.join(failed)}; {FAILED} in their folders says why")


def compare(args: argparse.Namespace) -> list[str]:
    """Make all rows that are not there; the names of those that failed. One row's failure does not stop the others."""
    set_threads(args.threads)
    device = choose_device(args.device)
    wanted, todo = _planned(args)
    comparison = Comparison(
        Path(args.out), wanted, finetune_recipe(args), command_words(args), args.workers, args.force,
        not args.no_latency, _given(args.distill, plan.fine_tuning(args.dataset).distill),
    )  # fmt: skip
    return _run_all(todo, comparison, dense_networks(args, load_data(args), device))


def usual_jobs(args: argparse.Namespace) -> int:
    """One process for each seed, as far as there are cores for its threads; one on an accelerator."""
    if choose_device(args.device).type != "cpu":
        return 1
    return max(1, min(len(args.seeds), torch.get_num_threads() // (args.threads or 1)))


def load_data(args: argparse.Namespace) -> DataBundle:
    """The pictures of a comparison; with ``--holdout`` a part of the training pictures stands for the test set."""
    data = cli.load_data(args)
    return data if args.holdout is None else data.holdout(args.holdout)


def _planned(args: argparse.Namespace) -> tuple[dict[str, Method], list[Job]]:
    wanted = plan.chosen_methods(methods(), _names(args))
    chains = [chain.split(",") for chain in args.chain]
    for chain in chains:
        plan.chosen_methods(wanted, chain)
    single = args.methods or ([] if chains else list(wanted))
    todo = plan.jobs(wanted, args.seeds, args.target_macs, args.target_bytes, chains)
    todo = [job for job in todo if job.is_chain or job.methods[0] in single]
    if not todo:
        raise UserError("nothing to do: give a budget that the chosen methods aim at (--target-macs, --target-bytes)")
    return wanted, todo


def _in_processes(args: argparse.Namespace, argv: Sequence[str] | None) -> list[str]:
    """The same command several times, the cores shared out: each begins at another seed and takes what nobody is making."""
    out, count = Path(args.out), args.jobs
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--force"]
    todo = _planned(args)[1]
    if args.force:
        for folder in {out / f"seed{job.seed}" / name for job in todo for name in (job.name, "baseline")}:
            shutil.rmtree(folder, ignore_errors=True)
    threads = args.threads or max(1, torch.get_num_threads() // count)
    set_threads(threads)  # as each process: the network of a seed does not depend on who trains it
    finetune_recipe(args)
    dense_networks(args, load_data(args), choose_device(args.device))(args.seeds[0])  # a mistake is told once, here
    since, started = time.time(), []
    for i in range(count):
        first = i % len(args.seeds)
        seeds = [str(seed) for seed in (*args.seeds[first:], *args.seeds[:first])]
        own = ["--no-report", "--jobs", "1", "--threads", str(threads), "--seeds", *seeds]
        started.append(subprocess.Popen([sys.executable, "-m", "compare", *words, *own]))
    try:
        status = [process.wait() for process in started]
    except KeyboardInterrupt:
        for process in started:
            process.terminate()  # Ctrl-C reached them too; a signal to this process alone did not
        for process in started:
            process.wait()
        raise
    if any(code == STOPPED for code in status):
        raise Stopped("stopped")
    if any(code not in (0, cli.MISTAKE) for code in status):
        raise UserError("a process was stopped; the same command goes on where it was")
    tried = [(job, out / f"seed{job.seed}" / job.name / FAILED) for job in todo]
    failed = [f"{job.name}, seed {job.seed}" for job, file in tried if file.is_file() and file.stat().st_mtime >= since]
    if any(status) and not failed:
        raise UserError("stopped by the mistake told above")
    return failed


def _names(args: argparse.Namespace) -> list[str] | None:
    """Methods that are named at all: those of the chains too."""
    if args.methods is None:
        return None
    return list(dict.fromkeys([*args.methods, *(name for chain in args.chain for name in chain.split(","))]))


def finetune_recipe(args: argparse.Namespace):
    """The one recipe that every cut network is trained by."""
    base, usual = plan.baseline_recipe(args.dataset), plan.fine_tuning(args.dataset)
    return replace(
        base, epochs=args.finetune_epochs, weight_decay=args.weight_decay, batch_size=args.batch_size or base.batch_size,
        learning_rate=_given(args.learning_rate, usual.learning_rate), schedule=args.schedule or usual.schedule,
        warmup_epochs=_given(args.warmup_epochs, usual.warmup_epochs), label_smoothing=args.label_smoothing,
        amp=args.amp, **running_options(args),
    )  # fmt: skip


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value


def dense_networks(args: argparse.Namespace, data: DataBundle, device: torch.device) -> Callable[[int], Dense]:
    """seed -> its dense network; the one that was given, or one trained for each seed. The last one is remembered.

    A user's own network is known by its factory's name from here on, so that every method can build it again.
    """
    out, found = Path(args.out), {}
    if args.model:
        own = import_factory(args.model, data.num_classes)
        ARCHITECTURES[args.model] = Architecture(lambda num_classes: own(), data.input_shape, meta=False)
    if args.force:
        for folder in out.glob("seed*/shared"):
            shutil.rmtree(folder)

    def dense(seed: int) -> Dense:
        key = None if args.weights or args.baseline else seed
        if key not in found:
            found.clear()
            with claimed(out / CLAIMS / ("baseline" if key is None else f"seed{seed}-baseline"), wait=True):
                found[key] = _dense(args, data, device, seed)
        return found[key]

    return dense


def _dense(args: argparse.Namespace, data: DataBundle, device: torch.device, seed: int) -> Dense:
    out, file = Path(args.out), args.baseline or args.weights
    if args.baseline and args.weights:
        raise UserError("--baseline and --weights: give one of them")
    if file is None:
        recipe = plan.baseline_recipe(args.dataset)
        epochs = recipe.epochs if args.baseline_epochs is None else args.baseline_epochs
        recipe = replace(recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, epochs / 2), amp=args.amp)
        recipe = replace(recipe, **running_options(args))
        return train_dense(out, args.model or args.arch, data, recipe, device, seed, args.force, not args.no_latency)
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file")

    def load():
        if args.baseline:
            return load_network(file)
        return named_model(args.model or args.arch, file, data.num_classes, data.input_shape)

    return given_dense(out, load, file, digest(Path(file)), data, device, args.force, not args.no_latency)


def _run_all(todo: Sequence[Job], comparison: Comparison, dense: Callable[[int], Dense]) -> list[str]:
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


def _attempt(job: Job, comparison: Comparison, dense: Callable[[int], Dense], failed: list[str]) -> str:
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


def command_words(args: argparse.Namespace) -> tuple[str, ...]:
    """The command without what names single rows: enough to make one again."""
    words = ["python", "-m", "compare", "--dataset", args.dataset]
    for name in (
        "dataset_dir",
        "normalize",
        "holdout",
        "model",
        "weights",
        "baseline",
        "baseline_epochs",
        "batch_size",
        "learning_rate",
        "schedule",
        "warmup_epochs",
        "distill",
    ):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    if not args.baseline and not args.model:
        words += ["--arch", args.arch]
    words += ["--finetune-epochs", str(args.finetune_epochs)]
    if args.label_smoothing:
        words += ["--label-smoothing", str(args.label_smoothing)]
    if args.weight_decay != 5e-4:
        words += ["--weight-decay", str(args.weight_decay)]
    return (*words, *(["--amp"] if args.amp else []))


def weight(text: str) -> float:
    """An argparse type: a number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


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


if __name__ == "__main__":
    sys.exit(main())
