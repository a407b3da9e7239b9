"""``python -m compare.sweep``: one knob of one command at several values, as an NNI experiment. Local, or as NNI's file says.

    python -m compare.sweep --values 0.7 0.5 0.3 --out runs/sweep -- python -m compare --methods l1_norm \
        --target-macs {value} --target-bytes --seeds 0 --baseline dense.safetensors --out {out}

Whatever follows ``--`` is the command of a trial: ``{value}`` is replaced by the knob's value, ``{out}`` by the trial's
folder. The figure of a trial is read from the ``metrics.json`` that the command leaves below its folder. NNI opens a web
portal; it listens on 127.0.0.1 alone unless ``--listen`` says otherwise (remote trials must reach it).
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
from common.cli import positive_int
from common.errors import UserError
from common.markdown import markdown_table, padded
from common.runs import METRICS, read_json
from common.settings import REQUIRED, command, option, settings
from compare.settings import PACKAGE

SETTINGS = "COMPARE_SWEEP"  # variable that names the file with a sweep's settings, for its trials
FIGURE = "compressed.top1"
PATIENCE = 300  # seconds; nni gives its manager 3 and its tuner 10, too few where importing torch takes longer
SERVICES = "remote, kubernetes and the like: https://nni.readthedocs.io/en/stable/reference/experiment_config.html"


@settings
class Sweep:
    """A sweep over one knob as an NNI experiment."""

    values: list[str] = option(REQUIRED, "the knob's values, one trial each")
    out: str = option(REQUIRED, "folder of the trials and of NNI's own files")
    figure: str = option(FIGURE, "what is read from metrics.json, by its path")
    concurrency: int = option(1, "trials at once", type=positive_int)
    config: str | None = option(None, f"an NNI configuration with another training service; {SERVICES}")
    port: int = option(8080, "of NNI's web portal")
    listen: str = option("127.0.0.1", "address that the portal listens on")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    return command(
        Sweep, lambda given: sweep_over(given, words[end + 1 :]), words[:end], "python -m compare.sweep", PACKAGE
    )


def sweep_over(settings: Sweep, trial: Sequence[str]) -> None:
    """The command; ``trial`` is what followed ``--``."""
    check_command(trial)
    out = Path(settings.out).absolute()
    sweep = {
        "command": trial,
        "out": str(out),
        "figure": settings.figure,
        "values": settings.values,
        "folder": os.getcwd(),
    }
    write_json(out / "sweep.json", sweep)
    _experiment(settings, out, sweep)
    rows = collect(sweep)
    print(
        padded(
            markdown_table(["value", settings.figure, "folder"], [[r["value"], r["figure"], r["folder"]] for r in rows])
        ),
        end="",
    )
    missing = [row["value"] for row in rows if row["figure"] is None]
    if missing:
        raise UserError(
            f"no figure {settings.figure} for {', '.join(missing)}: see the files trial.stderr below {out / 'nni'}"
        )


def check_command(command: Sequence[str]) -> None:
    """Raises UserError for a command that has no place for the value or the folder."""
    for place in ("{value}", "{out}"):
        if not any(place in word for word in command):
            raise UserError(
                f"the command after -- must hold {place}, for example: -- python -m compare ... --target-macs {{value}} --out {{out}}"
            )


def filled(command: Sequence[str], value: str, out: Path) -> list[str]:
    """The command of one trial; ``python`` is this interpreter."""
    words = [word.replace("{value}", value).replace("{out}", str(out)) for word in command]
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def working_folder(settings: dict[str, Any]) -> str | None:
    """Where a trial's command runs: where the sweep was started, so that its paths mean the same; elsewhere if that is not there."""
    return settings["folder"] if Path(settings["folder"]).is_dir() else None


def trial_folder(out: Path | str, value: str) -> Path:
    """Where the trial of a value works: named after it."""
    return Path(out) / f"value-{re.sub(r'[^A-Za-z0-9.+-]', '_', value)}"


def figure_in(folder: Path, path: str) -> float | None:
    """The figure of the newest metrics.json below a folder that has it."""
    found = []
    for file in folder.rglob(METRICS):
        value: Any = read_json(file)
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            found.append((file.stat().st_mtime_ns, float(value)))
    return max(found)[1] if found else None


def collect(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per value, from what lies on disk; also written to sweep.csv."""
    rows = []
    for value in settings["values"]:
        folder = trial_folder(settings["out"], value)
        rows.append(
            {
                "value": value,
                "figure": figure_in(folder, settings["figure"]),
                "folder": folder.name,
                "command": shlex.join(filled(settings["command"], value, folder)),
            }
        )
    write_csv(Path(settings["out"]) / "sweep.csv", rows)
    return rows


def _experiment(args, out: Path, settings: dict[str, Any]) -> None:
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
        launcher._check_rest_server = partial(launcher._check_rest_server, retry=PATIENCE)
        rest.timeout = PATIENCE
        experiment = Experiment(config)
        try:
            done = experiment.run(args.port)
        except RuntimeError as error:  # the port is taken
            raise UserError(f"NNI did not start: {str(error).strip()}; --port chooses another") from error
        finally:
            experiment.stop()
    if done is None:  # nni has caught Ctrl-C
        raise KeyboardInterrupt
    if not done:
        raise UserError(f"NNI gave up; its reasons: {out / 'nni' / str(experiment.id) / 'log'}")


def manager_environment(preload: str, listen: str) -> dict[str, str]:
    """What NNI's manager is told by environment variables: the script that it loads first, and its settings."""
    options = (
        f"{os.environ.get('NODE_OPTIONS', '')} --require {json.dumps(preload)}".strip()
    )  # node wants double quotes
    return {"NODE_OPTIONS": options, "COMPARE_LISTEN": listen, "COMPARE_PATIENCE": str(PATIENCE)}


if __name__ == "__main__":
    sys.exit(main())
