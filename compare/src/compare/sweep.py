"""Run a command at several values of one hyperparameter, as an NNI experiment (``python -m compare.sweep``).

    python -m compare.sweep --values 0.7 0.5 0.3 --out runs/sweep -- python -m compare --methods l1_norm \
        --target-macs {value} --target-bytes --seeds 0 --checkpoint dense.safetensors --out {out}

The words after ``--`` are the command of a trial: ``{value}`` is replaced by the hyperparameter's value, ``{out}`` by the
trial's folder. The metric of a trial is read from the ``metrics.json`` that the command writes below its folder. Trials run on
this machine or on another training service of NNI. NNI's web portal listens on 127.0.0.1 only, unless ``--listen`` names
another address (which remote trials must be able to reach).
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from common.atomic import write_csv, write_json
from common.cli import PROCESSES, Range
from common.errors import UserError
from common.markdown import markdown_table, pad_table
from common.runs import METRICS, read_json
from common.settings import REQUIRED, command, option, settings
from compare.settings import PACKAGE

SETTINGS = "COMPARE_SWEEP"  # environment variable with the file of a sweep's settings, for its trials
METRIC = "compressed.top1"
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
    sweep = {
        "command": trial,
        "out": str(out),
        "metric": settings.metric,
        "values": settings.values,
        "folder": os.getcwd(),
    }
    write_json(out / "sweep.json", sweep)
    _run_experiment(settings, out, sweep)
    trials = collect(sweep)
    rows = [[t["value"], t["metric"], t["folder"]] for t in trials]
    print(pad_table(markdown_table(["value", settings.metric, "folder"], rows)), end="")
    missing = [t["value"] for t in trials if t["metric"] is None]
    if missing:
        raise UserError(
            f"--metric {settings.metric}: not found for {', '.join(missing)}; see the files trial.stderr below {out / 'nni'}"
        )


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


def read_metric(folder: Path, path: str) -> float | None:
    """Search a folder recursively; return the metric of the newest metrics.json that contains it.

    Args:
        path: Dotted name of the metric, e.g. "compressed.top1".
    """
    found = []
    for file in folder.rglob(METRICS):
        value: Any = read_json(file)
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            found.append((file.stat().st_mtime_ns, float(value)))
    return max(found)[1] if found else None


def collect(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the metric of every value from disk, and write them to sweep.csv."""
    trials = []
    for value in settings["values"]:
        folder = trial_folder(settings["out"], value)
        trials.append(
            {
                "value": value,
                "metric": read_metric(folder, settings["metric"]),
                "folder": folder.name,
                "command": shlex.join(fill_command(settings["command"], value, folder)),
            }
        )
    write_csv(Path(settings["out"]) / "sweep.csv", trials)
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
    config.trial_command = (
        f"{SETTINGS}={shlex.quote(str(out / 'sweep.json'))} {shlex.quote(sys.executable)} -m compare.trial"
    )
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
        try:
            done = experiment.run(args.port)
        except RuntimeError as error:  # the port is in use
            raise UserError(f"--port: NNI did not start: {str(error).strip()}; choose another port") from error
        finally:
            experiment.stop()
    if done is None:  # nni has caught Ctrl-C
        raise KeyboardInterrupt
    if not done:
        raise UserError(f"the NNI experiment failed; see {out / 'nni' / str(experiment.id) / 'log'}")


def manager_environment(preload: str, listen: str) -> dict[str, str]:
    """Return the environment variables of NNI's manager: the script that it loads first, and that script's settings."""
    # node requires double quotes
    options = f"{os.environ.get('NODE_OPTIONS', '')} --require {json.dumps(preload)}".strip()
    return {"NODE_OPTIONS": options, "COMPARE_LISTEN": listen, "COMPARE_STARTUP_SECONDS": str(STARTUP_SECONDS)}


if __name__ == "__main__":
    sys.exit(main())
