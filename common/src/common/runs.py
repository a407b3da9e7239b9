"""Run folders: every command that creates a network writes config.json, log.csv, metrics.json and model.safetensors.

Repeating the command with the same options skips finished stages and resumes an interrupted one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import remove_temporary_files, write_json
from common.distributed import barrier, is_main
from common.errors import RunFolderError, UserError
from common.locks import LOCK, lock_folder
from common.log import Log

if TYPE_CHECKING:
    import torch

    from common.training.train_options import TrainOptions

NETWORKS = ("baseline", "after_cut", "compressed")  # keys of networks in metrics.json
CONFIG, LOG, METRICS, MODEL, STATE = "config.json", "log.csv", "metrics.json", "model.safetensors", "state.pt"
DECISION = "decision.json"  # kept channels by group
LATENCY_TARGET = "latency-target.json"  # what was measured for a latency target
PROGRESS = "progress.pt"  # a method's state for resuming its selection, as STATE is for training
# Options that may differ when a run is resumed.
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
    "out",  # of commands that record it; a folder may be moved
)
# Options that name files; a moved file is recognized by its digest.
INPUT_FILES = ("weights", "checkpoint", "pretrained", "original", "classes", "labels")
# Options that name folders of inputs; their content is recorded by the fingerprint of the data and the digest of the weights.
INPUT_FOLDERS = ("dataset_dir", "pretrain_dir")
COMMIT = "COMPRESSION_COMMIT"  # environment variable: the commit of code that was copied without git
PROGRAM = "compression-papers"  # the installed command
LIBRARIES = ("torch", "torchvision", "torch-pruning", "numpy", "safetensors")


@dataclass(frozen=True)
class Stage:
    """An open run folder: finished, interrupted or new.

    Attributes:
        package: Name of the package that writes the folder.
        config: Content of config.json.
        seed: Random seed.
        log: Function that prints a line; silent if a method runs in ``compare``.
        force: Whether substages with other options are started again.
        recipe: Training hyperparameters for methods that train the network themselves; None: those of the method's options.
        shared: Folder of substages that do not depend on the target, common to all targets of a seed; None: ``folder``.
        previous_seconds: Duration of earlier calls according to the log.
        lock: Lock of the folder, which no other process opens as long as this object is used.
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
    previous_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    lock: object = field(default=None, repr=False, compare=False)

    @property
    def finished(self) -> bool:
        """Whether metrics.json exists; it is written last."""
        return (self.folder / METRICS).is_file()

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL

    @property
    def progress(self) -> Path:
        """File of a method's state for resuming its selection; removed when the stage is finished."""
        return self.folder / PROGRESS

    def substage(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        package: str | None = None,
        fingerprint: str | None = None,
        shared: bool = False,
        folder: Path | None = None,
    ) -> Stage:
        """Open a stage inside this one, with its own options.

        Args:
            package: Package that writes the folder; None: that of this stage.
            fingerprint: Fingerprint of the data set.
            shared: Whether the result is the same for all targets of a seed.
            folder: Folder, if not the default one.
        """
        place = folder or ((self.shared if shared and self.shared else self.folder) / name)
        stage = open_stage(
            place,
            package or self.package,
            options,
            device=self.device,
            fingerprint=fingerprint,
            force=self.force and not (shared and self.shared),  # the owner of the shared folder has cleared it
            seed=self.seed,
            log=self.log,
        )
        return replace(stage, recipe=self.recipe)

    def metrics(self) -> dict[str, Any]:
        """Read metrics.json. Raises UserError for one that this package did not write."""
        record = read_record(self.folder / METRICS)
        if record.get("schema") != 1 or record.get("package") != self.package:
            raise RunFolderError(f"{self.folder / METRICS}: not a result of {self.package}; delete it, or use --force")
        return record

    def finish(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics.json, with the keys that all runs have, and remove the state for resuming."""
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
            _remove_states(self.folder)
        return record

    def elapsed(self) -> float:
        """Return the seconds spent on this run: epochs of interrupted calls according to the log, and this call."""
        return self.previous_seconds + time.monotonic() - self.started


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
    """Open a folder for a new run or to resume a run with the same options.

    Args:
        options: All options of the command; those in FREE_OPTIONS may differ from the folder's run.
        fingerprint: Fingerprint of the data set.
        force: Clear the folder if it has a run.
        more: Other fields of :class:`Stage`.

    Raises:
        RunFolderError: If the folder has a run with another option (the first one is named) or other data, is not writable, is
            used by another process, or has a run without config.json.
    """
    folder = writable_folder(folder)
    config = {
        "package": package,
        "options": _plain(options),
        "files": _file_digests(options),
        "data_fingerprint": fingerprint,
        "environment": describe_environment(device),
        "command": typed_command(),
    }
    lock = None
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        remove_temporary_files(folder)
        if force:
            _clear(folder)
    barrier()
    if _has_results(folder):
        _check_same_options(folder, read_record(folder / CONFIG), config)
    previous_seconds = _seconds_logged(folder / LOG)
    barrier()
    if is_main():
        write_json(folder / CONFIG, config)
        if (folder / METRICS).is_file():
            _remove_states(folder)  # a kill may have prevented it
    return Stage(
        folder, package, config, device=device, force=force, previous_seconds=previous_seconds, lock=lock, **more
    )


def writable_folder(path: Path | str) -> Path:
    """Return the path of a folder to be created. Raises UserError if it cannot be created or is not writable."""
    absolute = Path(path).absolute()
    nearest = next(place for place in (absolute, *absolute.parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{path}: {nearest} is a file, not a folder; move it away or choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{path}: no permission to write in {nearest}; choose another folder")
    return Path(path)


def read_json(path: Path | str, limit: int = 64 * 2**20) -> Any:
    """Read a JSON file of at most ``limit`` bytes.

    Raises:
        UserError: If it is missing, too large or damaged, or a name occurs twice in an object, of which json keeps the last.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise UserError(f"{path}: larger than {limit} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def read_record(path: Path | str) -> dict[str, Any]:
    """Read a JSON file of a run, which is a table; the networks that it describes are tables, too.

    Raises UserError, also later when a missing name is looked up.
    """
    try:
        record = read_json(path)
    except UserError as error:
        raise RunFolderError(f"{error}; restore it, delete it, or use --force") from error
    if not isinstance(record, dict):
        raise RunFolderError(f"{path}: not a table of names and values; restore it, delete it, or use --force")
    for name in NETWORKS:
        entry = record.get(name)
        if entry is not None and not (isinstance(entry, dict) and all(_is_value(v) for v in entry.values())):
            raise RunFolderError(f"{path}: {name!r} is not a table of numbers; restore it, delete it, or use --force")
    try:
        return _Record(record, path)
    except RecursionError as error:
        raise RunFolderError(
            f"{path}: damaged: tables nested too deeply; restore it, delete it, or use --force"
        ) from error


class _Record(dict[str, Any]):
    """A table of a JSON file, and the tables in it, that raise UserError with the file for a missing name."""

    def __init__(self, content: Mapping[str, Any], path: Path | str) -> None:
        super().__init__(
            {key: _Record(value, path) if isinstance(value, dict) else value for key, value in content.items()}
        )
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RunFolderError(f"{self._path}: damaged: {key!r} is missing; restore it, delete it, or use --force")

    def __reduce__(self) -> tuple[Any, ...]:
        return _Record, (dict(self), self._path)


def _is_value(value: Any) -> bool:
    """Return whether a value is one of a network in metrics.json: a number, latencies by batch size, or empty."""
    if isinstance(value, dict):
        return all(isinstance(number, int | float) for number in value.values())
    return value is None or isinstance(value, int | float)


def describe_environment(device: torch.device | str) -> dict[str, Any]:
    """Return what results may depend on in addition to the options: versions, device, threads, commit."""
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


def typed_command() -> str | None:
    """Return the command of this process as it was typed; None in an interactive session or a worker process."""
    words = sys.orig_argv[1:]
    if (
        multiprocessing.parent_process() is not None
        or "ipykernel" in sys.modules
        or not words
        or words[0] in ("-", "-c")
    ):
        return None
    program = Path(words[0])
    return shlex.join([program.name, *words[1:]] if program.name == PROGRAM else ["python", *words])


def _processor() -> str:
    """Return the processor's name, if the system reports it, and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def git_commit() -> str | None:
    """Return the commit of this code, with '+' if files were modified; without git, $COMPRESSION_COMMIT or None."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT) or None


def _has_results(folder: Path) -> bool:
    """Return whether a run wrote more than its configuration; one that failed at once does not block the folder.

    Raises UserError for a run without config.json, whose options are unknown.
    """
    if (folder / CONFIG).exists():
        return any(path.name not in (CONFIG, LOCK) for path in folder.iterdir())
    found = next((name for name in (METRICS, STATE, PROGRESS) if (folder / name).exists()), None)
    if found is not None:
        raise RunFolderError(
            f"{folder}: contains {found} of a run, but not its {CONFIG}; restore it, choose another folder, or use --force to start again"
        )
    return False


def _remove_states(folder: Path) -> None:
    for name in (STATE, PROGRESS):
        (folder / name).unlink(missing_ok=True)


def _file_digests(options: Mapping[str, Any]) -> dict[str, str]:
    """Return {option: first 16 hex digits of the SHA-256 of the file that it names}."""
    found = {}
    for name in INPUT_FILES:
        value = options.get(name)
        if isinstance(value, str) and Path(value).is_file():
            with open(value, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return found


def _check_same_options(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if not isinstance(before.get("options"), dict):
        raise RunFolderError(f"{folder / CONFIG}: not a configuration of a run; choose another folder or use --force")
    old, new = before["options"], now["options"]
    if before.get("package") != now["package"]:
        raise RunFolderError(
            f"{folder}: contains a run of {before.get('package')}; choose another folder or use --force"
        )
    for name in sorted({*old, *new} - set(FREE_OPTIONS)):
        if name not in old and not new[name]:
            continue  # an option that did not exist when the run was started, and is not used
        if old.get(name) != new.get(name) and not _is_moved(name, before, now):
            flag = f"--{name.replace('_', '-')}"
            raise RunFolderError(
                f"{folder}: contains a run with {flag} {old.get(name)}, not {new.get(name)}; choose another folder or "
                "use --force to start again"
            )
    for name, digest in now["files"].items():
        if _known_digest(before, name) not in (None, digest):
            raise RunFolderError(
                f"{folder}: contains a run with another file --{name} {old.get(name)}; choose another folder or use --force to start again"
            )
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        raise RunFolderError(
            f"{folder}: contains a run on other data; choose another folder or use --force to start again"
        )


def _is_moved(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether an option names the same file or data set as before, in another place."""
    old, new = before["options"].get(name), now["options"].get(name)
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    if name in INPUT_FILES:
        return _known_digest(before, name) is not None and _known_digest(before, name) == _known_digest(now, name)
    if name == "dataset":  # folder:PATH
        kind, colon, _ = old.partition(":")
        return bool(colon) and new.partition(":")[:2] == (kind, colon) and _same(before, now, "data_fingerprint")
    if name == "pretrain_dir":
        return _same(before["options"], now["options"], "weights_digest")
    return name in INPUT_FOLDERS and _same(before, now, "data_fingerprint")


def _known_digest(config: Mapping[str, Any], option: str) -> str | None:
    """Return the digest of the file of an option; None in configurations of earlier versions."""
    files = config.get("files")
    return files.get(option) if isinstance(files, dict) else None


def _same(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    return before.get(name) is not None and before.get(name) == now.get(name)


def _seconds_logged(log: Path) -> float:
    if not log.is_file():
        return 0.0
    try:
        with open(log, newline="", encoding="utf-8") as file:
            seconds = [float(row.get("seconds") or 0) for row in csv.DictReader(file)]
        if not all(math.isfinite(value) and value >= 0 for value in seconds):
            raise ValueError("the seconds of an epoch are not a number of seconds")
        return sum(seconds)
    except (ValueError, TypeError, csv.Error) as error:
        raise RunFolderError(
            f"{log}: damaged ({error}); delete it: training that resumes writes it again, only the time of earlier calls is lost"
        ) from error


def _clear(folder: Path) -> None:
    # metrics.json first: without it, the run does not count as finished; config.json last: a killed _clear is noticed
    for name in (METRICS, DECISION, LATENCY_TARGET, PROGRESS, STATE, LOG, MODEL, CONFIG):
        (folder / name).unlink(missing_ok=True)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to JSON and back, so that they compare equal to those in config.json."""
    return json.loads(json.dumps(dict(options), default=str))


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
