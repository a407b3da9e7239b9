"""Run folders: every command that makes a network leaves config.json, log.csv, metrics.json and model.safetensors.

The same command again skips what is finished and goes on with what was interrupted, but only with the same options.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.distributed import barrier, is_main
from common.errors import UserError
from common.log import Log

if TYPE_CHECKING:
    import torch

    from common.training.options import TrainOptions

CONFIG, LOG, METRICS, MODEL, STATE = "config.json", "log.csv", "metrics.json", "model.safetensors", "state.pt"
DECISION = "decision.json"  # which channels stay, by group
PROGRESS = "progress.pt"  # of a method that is deciding, as STATE is of training
# May differ when a run is resumed.
FREE_OPTIONS = (
    "force",
    "workers",
    "threads",
    "device",
    "json",
    "tensorboard",
    "no_latency",
    "evaluate_every",
    "keep_every",
    "deterministic",
    "graph",
)
COMMIT = "COMPRESSION_COMMIT"  # in the environment: the commit, where the code was copied without git
LIBRARIES = ("torch", "torchvision", "torch-pruning", "numpy", "safetensors")


@dataclass(frozen=True)
class Stage:
    """A run folder that is open for work: finished, interrupted or new.

    Attributes:
        package: Who works there.
        config: The content of config.json.
        seed: Of everything that is drawn.
        log: Prints a line; nobody sees it where a method works for ``compare``.
        force: Whether parts that hold other options start anew.
        recipe: How a method trains where it trains the network itself; None where its own options say so.
        shared: Folder of the parts that do not depend on the target, the same for all targets of a seed; None for ``folder``.
        seconds_before: Of work in earlier calls, as the log tells.
    """

    folder: Path
    package: str
    config: dict[str, Any]
    seed: int = 0
    device: torch.device | str = "cpu"
    log: Log = print
    force: bool = False
    recipe: TrainOptions | None = None
    shared: Path | None = None
    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """metrics.json is written last."""
        return (self.folder / METRICS).is_file()

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL

    @property
    def progress(self) -> Path:
        """Where a method keeps what it needs to resume deciding: dropped when the stage is finished."""
        return self.folder / PROGRESS

    def part(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        package: str | None = None,
        fingerprint: str | None = None,
        shared: bool = False,
        folder: Path | None = None,
    ) -> Stage:
        """Open a stage inside this one, with options of its own.

        Args:
            package: Of the method that works there.
            fingerprint: Of the data that it reads.
            shared: Whether its result is the same for all targets of a seed.
            folder: Another place than the usual one.
        """
        place = folder or ((self.shared if shared and self.shared else self.folder) / name)
        found = open_stage(
            place,
            package or self.package,
            options,
            device=self.device,
            fingerprint=fingerprint,
            force=self.force and not (shared and self.shared),  # who owns the shared folder has emptied it
            seed=self.seed,
            log=self.log,
        )
        return replace(found, recipe=self.recipe)

    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / METRICS)

    def finish(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics.json (the keys every run has are added) and drop the state that only an unfinished run needs."""
        options, environment = self.config["options"], self.config["environment"]
        record = {
            "schema": 1,
            "package": self.package,
            "arch": options.get("arch"),
            "dataset": options.get("dataset"),
            "seed": options.get("seed"),
            "device": environment["device"],
            "commit": environment["commit"],
            "seconds": round(self.elapsed(), 1),
            **metrics,
        }
        if is_main():
            write_json(self.folder / METRICS, record)
            for name in (STATE, PROGRESS):
                (self.folder / name).unlink(missing_ok=True)
        return record

    def elapsed(self) -> float:
        """Seconds of work on this run: the epochs of interrupted calls, as the log tells, and this call."""
        return self.seconds_before + time.monotonic() - self.started


def open_stage(
    folder: Path | str,
    package: str,
    options: Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
    fingerprint: str | None = None,
    force: bool = False,
    **more: Any,
) -> Stage:
    """Open a folder for a run with these options, new or to go on with.

    more: other fields of :class:`Stage`. Raises UserError if the folder holds a run with other options (naming the first
    that differs; ``force`` starts anew) or can't be one (:func:`writable_folder`).
    """
    folder = writable_folder(folder)
    config = {
        "package": package,
        "options": _plain(options),
        "data_fingerprint": fingerprint,
        "environment": describe_environment(device),
    }
    if force and is_main():
        _clear(folder)
    barrier()
    if _holds_work(folder):
        _same_options(folder, read_json(folder / CONFIG), config)
    barrier()
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, config)
    return Stage(
        folder, package, config, device=device, force=force, seconds_before=_seconds_logged(folder / LOG), **more
    )


def writable_folder(path: Path | str) -> Path:
    """Where files are going to be, not made yet. Raises UserError, before anything is computed, if they can't be there."""
    whole = Path(path).absolute()
    nearest = next(place for place in (whole, *whole.parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{path}: {nearest} is a file where a folder should be; move it away or choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{path}: no permission to write in {nearest}; choose another folder")
    return Path(path)


def read_json(path: Path | str, limit: int = 64 * 2**20) -> Any:
    """A JSON file of at most ``limit`` bytes. Raises UserError if it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise UserError(f"{path} is larger than {limit} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file: {error}") from error


def describe_environment(device: torch.device | str) -> dict[str, Any]:
    """What a number may depend on besides the options: versions, device, threads, commit."""
    import torch

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {library: _version(library) for library in LIBRARIES},
        "commit": git_commit(),
    }


def _processor() -> str:
    """The processor's name where the system tells it, with the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def git_commit() -> str | None:
    """The commit of this code, with '+' if files differ from it; None outside a git checkout without COMPRESSION_COMMIT."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT) or None


def _holds_work(folder: Path) -> bool:
    """Whether a run left more in this folder than its configuration: one that failed at once holds nobody up."""
    return (folder / CONFIG).is_file() and any(path.name != CONFIG for path in folder.iterdir())


def _same_options(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if not isinstance(before, dict) or not isinstance(before.get("options"), dict):
        raise UserError(f"{folder / CONFIG} is not a run's configuration; choose another folder or use --force")
    old, new = before["options"], now["options"]
    if before.get("package") != now["package"]:
        raise UserError(f"{folder} holds a run of {before.get('package')}; choose another folder or use --force")
    for name in sorted({*old, *new} - set(FREE_OPTIONS)):
        if old.get(name) != new.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{folder} holds a run with {flag} {old.get(name)}, this one has {flag} {new.get(name)};"
                " choose another folder or use --force to start anew"
            )
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        raise UserError(
            f"{folder} holds a run on other data than these; choose another folder or use --force to start anew"
        )


def _seconds_logged(log: Path) -> float:
    if not log.is_file():
        return 0.0
    with open(log, newline="", encoding="utf-8") as file:
        return sum(float(row.get("seconds") or 0) for row in csv.DictReader(file))


def _clear(folder: Path) -> None:
    for name in (
        METRICS,
        CONFIG,
        DECISION,
        PROGRESS,
        STATE,
        LOG,
        MODEL,
    ):  # without metrics.json nothing counts as finished
        (folder / name).unlink(missing_ok=True)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back, so that old and new compare equal."""
    return json.loads(json.dumps(dict(options), default=str))


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
