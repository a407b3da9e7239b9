"""Run a command at several values of one hyperparameter, as an NNI experiment (``python -m compare.sweep``).

    python -m compare.sweep --values 0.7 0.5 0.3 --out runs/sweep -- python -m compare --methods l1_norm \
        --target-macs {value} --seeds 0 --checkpoint dense.safetensors --out {out}

The words after ``--`` are the command of a trial: ``{value}`` is replaced by the hyperparameter's value, ``{out}`` by the
trial's folder. The metric of a trial is read from the ``metrics.json`` that the command writes below its folder. Trials run on
this machine or on another training service of NNI. NNI's web portal listens on 127.0.0.1 only, unless ``--listen`` names
another address (which remote trials must be able to reach).

NNI's manager, tuner and trials end with this process, however it ends: SIGTERM, SIGHUP and Ctrl-C stop the experiment, the manager
and the trials watch the processes that started them (manager.js, :mod:`compare.trial`).
"""

import json
import os
import re
import shlex
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from common.atomic import write_csv, write_json
from common.cli import PROCESSES, Range
from common.errors import UserError
from common.interruption import Stopped
from common.locks import lock_folder
from common.markdown import markdown_table, pad_table
from common.runs import METRICS, read_json
from common.settings import REQUIRED, command, option, settings
from compare.settings import PACKAGE

SETTINGS = "COMPARE_SWEEP"  # environment variable with the file of a sweep's settings, for its trials
PROCESS = "COMPARE_SWEEP_PROCESS"  # environment variable with the process ID of a sweep, with which its trials end
TRIAL = "trial.json"  # in a trial's folder: command, earlier results, state
METRIC = "compressed.top1"
STOP_SECONDS = 20  # for NNI to stop its processes before they are killed
STARTUP_SECONDS = 300  # nni gives its manager 3 and its tuner 10, too few where importing torch takes longer
SERVICES = "https://nni.readthedocs.io/en/stable/reference/experiment_config.html"


@settings
class Sweep:
    """Run a command at several values of one hyperparameter, as an NNI experiment."""

    values: list[str] = option(REQUIRED, "values of the hyperparameter, one trial each")
    out: str = option(REQUIRED, "folder for the trials and NNI's own files")
    metric: str = option(METRIC, "value to read from metrics.json, as a path of keys")
    concurrency: int = option(1, "number of concurrent trials", type=PROCESSES)
    config: str | None = option(None, f"NNI configuration of another training service (remote, kubernetes): {SERVICES}")
    port: int = option(8080, "port of NNI's web portal", type=Range(int, 1, 65_535))
    listen: str = option("127.0.0.1", "address on which the portal listens")

    def __post_init__(self) -> None:
        places = [trial_folder(self.out, value) for value in self.values]
        if repeated := next(
            (value for value, place in zip(self.values, places, strict=True) if places.count(place) > 1), None
        ):
            raise UserError(
                f"--values {repeated}: two values have the folder {trial_folder(self.out, repeated)}; give each once"
            )


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    return command(
        Sweep, lambda settings: run_sweep(settings, argv[end + 1 :]), argv[:end], "python -m compare.sweep", PACKAGE
    )


def run_sweep(settings: Sweep, trial: Sequence[str]) -> None:
    """Run the command. trial: the arguments after ``--``."""
    check_command(trial)
    out = Path(settings.out).absolute()
    check_values(settings.values)
    out.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(out)
    sweep = {
        "id": uuid.uuid4().hex,
        "command": trial,
        "out": str(out),
        "metric": settings.metric,
        "values": settings.values,
        "folder": os.getcwd(),
    }
    write_json(out / "sweep.json", sweep)
    _run_experiment(settings, out, sweep)
    del lock
    trials = collect(sweep)
    rows = [[t["value"], t["metric"], t["folder"]] for t in trials]
    print(pad_table(markdown_table(["value", settings.metric, "folder"], rows)), end="")
    missing = [f"{t['value']} ({t['problem']})" for t in trials if t["metric"] is None]
    if missing:
        raise UserError(
            f"--metric {settings.metric}: not found for {', '.join(missing)}; see the files trial.stderr below {out / 'nni'}"
        )


def check_values(values: Sequence[str]) -> None:
    """Raise UserError if two values have the same folder."""
    folders: dict[str, str] = {}
    for value in values:
        name = trial_folder("", value).name
        if name in folders:
            same = "is given twice" if folders[name] == value else f"and {folders[name]!r} have the same folder name"
            raise UserError(f"--values: {value!r} {same}; give each value once, with other letters")
        folders[name] = value


def check_command(command: Sequence[str]) -> None:
    """Raise UserError if a command lacks the placeholder for the value or the folder."""
    for placeholder in ("{value}", "{out}"):
        if not any(placeholder in word for word in command):
            raise UserError(
                f"the command after -- does not contain {placeholder}; use for example: "
                "-- python -m compare ... --target-macs {value} --out {out}"
            )


def fill_command(command: Sequence[str], value: str, out: Path) -> list[str]:
    """Return the command of one trial; ``python`` becomes this interpreter."""
    argv = [word.replace("{value}", value).replace("{out}", str(out)) for word in command]
    return [sys.executable, *argv[1:]] if argv[0] == "python" else argv


def working_folder(settings: dict[str, Any]) -> str | None:
    """Return the folder in which the sweep was started, so that relative paths stay valid; None if it does not exist here."""
    return settings["folder"] if Path(settings["folder"]).is_dir() else None


def trial_folder(out: Path | str, value: str) -> Path:
    """Return the folder of a value's trial."""
    return Path(out) / f"value-{re.sub(r'[^A-Za-z0-9.+-]', '_', value)}"


def metric_files(folder: Path) -> dict[str, int]:
    """Return {path of a metrics.json below a folder: modification time in nanoseconds}."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob(METRICS) if file.is_file()}


def read_metric(folder: Path, path: str, before: Mapping[str, int] | None = None) -> float | None:
    """Search a folder recursively; return the metric of the newest metrics.json that contains it.

    Args:
        path: Dotted name of the metric, e.g. "compressed.top1".
        before: Files that are ignored unless they were modified: those that existed before the trial (:func:`metric_files`).
    """
    found = []
    for name, modified in metric_files(folder).items():
        if before and before.get(name) == modified:
            continue
        value: Any = read_json(folder / name)
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((modified, float(value)))
    return max(found)[1] if found else None


def begin_trial(settings: Mapping[str, Any], value: str) -> dict[str, Any]:
    """Record in the trial's folder that its command starts, and return the record.

    Results that other commands have left there are listed as ``before``. Results of earlier calls of the same command count, since it
    resumes: a command that finds its work finished does not write it again.
    """
    folder, command = (
        trial_folder(settings["out"], value),
        list(settings["command"]),
    )  # without the folder, which may be moved
    known = _read_trial(folder)
    before = known["before"] if known.get("command") == command else metric_files(folder)
    record = {"sweep": settings.get("id"), "command": command, "before": before, "status": None}
    write_json(folder / TRIAL, record)
    return record


def end_trial(settings: Mapping[str, Any], value: str, record: Mapping[str, Any], status: int) -> float | None:
    """Record the exit status of a trial, and return its metric; None if it failed or wrote none."""
    folder = trial_folder(settings["out"], value)
    write_json(folder / TRIAL, {**record, "status": status})
    return None if status else read_metric(folder, settings["metric"], record["before"])


def _read_trial(folder: Path) -> dict[str, Any]:
    """Return the record of a trial; empty if there is none, or it is damaged."""
    with suppress(UserError):
        record = read_json(folder / TRIAL)
        if isinstance(record, dict) and isinstance(record.get("before"), dict):
            return record
    return {}


def collect(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the metrics of this sweep's trials from disk, and write them to sweep.csv, without the problems.

    The metric is None, and ``problem`` the reason, for a trial that did not run, failed or wrote no metric.
    """
    trials = []
    for value in settings["values"]:
        folder = trial_folder(settings["out"], value)
        record = _read_trial(folder)
        problem = metric = None
        if not record or record.get("sweep") != settings.get("id"):
            problem = "the trial did not start"
        elif record.get("status") != 0:
            problem = "it was stopped" if record.get("status") is None else f"its exit status is {record['status']}"
        else:
            metric = read_metric(folder, settings["metric"], record["before"])
            problem = None if metric is not None else "the command wrote no such value"
        command = shlex.join(fill_command(settings["command"], value, folder))
        trials.append({"value": value, "metric": metric, "folder": folder.name, "command": command, "problem": problem})
    rows = [{key: cell for key, cell in trial.items() if key != "problem"} for trial in trials]
    write_csv(Path(settings["out"]) / "sweep.csv", rows)
    return trials


def _run_experiment(args: Sweep, out: Path, settings: dict[str, Any]) -> None:
    """Run the trials through NNI and wait for them."""
    try:
        from nni.experiment import Experiment, ExperimentConfig, launcher, rest
    except ImportError as error:
        raise UserError(
            f"a sweep needs nni, in an environment of its own: pip install -c constraints-nni.txt './common[nni]' ./compare ({error})"
        ) from error
    config = ExperimentConfig.load(args.config) if args.config else ExperimentConfig("local")
    (out / "code").mkdir(parents=True, exist_ok=True)
    config.experiment_name = "compare.sweep"
    variables = f"{SETTINGS}={shlex.quote(str(out / 'sweep.json'))} {PROCESS}={os.getpid()}"
    config.trial_command = f"{variables} {shlex.quote(sys.executable)} -m compare.trial"
    config.trial_code_directory = out / "code"
    config.experiment_working_directory = out / "nni"
    config.search_space = {"value": {"_type": "choice", "_value": list(settings["values"])}}
    config.tuner.name = "GridSearch"
    config.max_trial_number = len(settings["values"])
    config.trial_concurrency = args.concurrency
    with as_file(files("compare").joinpath("manager.js")) as preload:
        os.environ |= manager_environment(str(preload), args.listen)
        launcher._check_rest_server = partial(launcher._check_rest_server, retry=STARTUP_SECONDS)
        rest.timeout = STARTUP_SECONDS
        experiment = Experiment(config)
        log = out / "nni" / str(experiment.id) / "log"
        with _signals_interrupt() as received:
            try:
                done = experiment.run(args.port)
            except RuntimeError as error:  # the port is in use
                raise UserError(f"--port: NNI did not start: {str(error).strip()}; choose another port") from error
            except OSError as error:  # also the errors of requests: the manager does not answer
                raise UserError(
                    f"NNI's manager has ended or does not answer ({type(error).__name__}); see {log}"
                ) from error
            finally:
                _stop(experiment)
    if received:
        raise Stopped("stopped")
    if done is None:  # nni has caught Ctrl-C
        raise KeyboardInterrupt
    if not done:
        raise UserError(f"the NNI experiment failed; see {log}")


@contextmanager
def _signals_interrupt() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP, too, and yield a list of those that were received."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        if not received:  # the experiment is stopping after the first one
            received.append(number)
            raise KeyboardInterrupt

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(experiment: Any) -> None:
    """Stop NNI's manager, its tuner and its trials; kill those that do not end."""
    pid = getattr(experiment._proc, "pid", None)
    if not isinstance(pid, int):  # the manager did not start
        experiment.stop()
        return
    import psutil

    started = []
    with suppress(psutil.Error):
        manager = psutil.Process(pid)
        started = [manager, *manager.children(recursive=True)]
    if not started or started[0].status() == psutil.STATUS_ZOMBIE:
        experiment._proc = None  # otherwise NNI prints tracebacks about its missing manager
    try:
        experiment.stop()
    finally:
        _, running = psutil.wait_procs(started, timeout=STOP_SECONDS)
        for process in running:
            with suppress(psutil.Error):
                process.kill()


def manager_environment(preload: str, listen: str) -> dict[str, str]:
    """Return the environment variables of NNI's manager: the script that it loads first, and that script's settings."""
    # node requires double quotes
    options = f"{os.environ.get('NODE_OPTIONS', '')} --require {json.dumps(preload)}".strip()
    seconds = {"COMPARE_STARTUP_SECONDS": str(STARTUP_SECONDS), "COMPARE_STOP_SECONDS": str(STOP_SECONDS)}
    return {"NODE_OPTIONS": options, "COMPARE_LISTEN": listen, **seconds}


if __name__ == "__main__":
    sys.exit(main())
