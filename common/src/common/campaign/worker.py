"""Run :class:`JobSpec` commands one after another in a process that imports torch only once."""

import contextlib
import gc
import io
import os
import re
import runpy
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.campaign.plan import Options
from common.executor import JobResult
from common.interruption import DEADLINE

# {option that is dropped when a failed job is retried: number of its values}
SPEED_UPS = {"--amp": 0, "--compile": 0, "--graph": 1}
DATASET, DATASET_DIR = "--dataset", "--dataset-dir"
LOG_LINES = 20  # number of last log lines that are reported as the reason of a failure


@dataclass(frozen=True)
class JobSpec:
    """A command to run.

    Attributes:
        command: Arguments, beginning with ``python``.
        folder: Working directory.
        log: File that receives the output.
        options: Added if the command accepts them and does not set them.
        extra: Added if the command accepts them, with precedence.
        deadline: Time (seconds since the epoch) after which no training epoch starts.
        plain: Drop optional speed-ups.
        list_options_only: Run nothing; return the accepted ``extra`` options.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    log: str
    options: Options = ()
    extra: Options = ()
    deadline: float | None = None
    plain: bool = False
    list_options_only: bool = False


@dataclass(frozen=True)
class CommandResult:
    """The command that ran, the extra options that it accepts, its duration in seconds, device and commit."""

    command: tuple[str, ...]
    known: tuple[str, ...]
    seconds: float
    device: str = ""
    commit: str | None = None


def run_job(spec: JobSpec) -> JobResult:
    """Run a command in this process, with its output in the log. The result's value is a :class:`CommandResult`."""
    start = time.monotonic()
    command: tuple[str, ...] = spec.command
    found: tuple[str, ...] = ()
    try:
        with _command_environment(spec):
            if spec.options or spec.extra or spec.list_options_only:
                command, found = with_options(spec, _help(spec.command))
            if spec.plain:
                command = without_speed_ups(command)
            if spec.list_options_only:
                return JobResult(0, CommandResult(command, found, 0.0))
            print(f"\n$ {' '.join(command)}", flush=True)
            status = run_command(command)
    except Exception as error:  # no error of one command may stop the others
        why = f"{''.join(traceback.format_exception(error))}{type(error).__name__}: {error}"
        return JobResult(1, reason=why)
    why = "" if status == 0 else _last_lines(Path(spec.log))
    return JobResult(status, CommandResult(command, found, time.monotonic() - start, *_device_and_commit()), why)


def with_options(spec: JobSpec, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (command with the options that its help text lists, names of the added extra options).

    If an extra option selects another data set, the command's ``--dataset-dir`` is removed.
    """
    command = list(spec.command)
    known = [(name, values) for name, values in spec.extra if lists_option(text, name)]
    names = [name for name, _ in known]
    if DATASET in names and DATASET_DIR not in names and DATASET_DIR in command:
        place = command.index(DATASET_DIR)
        del command[place : place + 2]
    for name, values in [*((n, v) for n, v in spec.options if lists_option(text, n) and n not in command), *known]:
        command += [name, *values]
    return tuple(command), tuple(names)


def lists_option(text: str, option: str) -> bool:
    """Return whether a help text lists an option."""
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def without_speed_ups(command: Sequence[str]) -> tuple[str, ...]:
    """Remove options that only make a command faster."""
    kept: list[str] = []
    skip = 0
    for word in command:
        if word in SPEED_UPS:
            skip = SPEED_UPS[word]
        elif word.partition("=")[0] in SPEED_UPS:
            skip = 0
        elif skip:
            skip -= 1
        else:
            kept.append(word)
    return tuple(kept)


def run_command(command: Sequence[str]) -> int:
    """Run ``python SCRIPT ...`` or ``python -m MODULE ...`` in this process and return its exit status."""
    try:
        if command[1] == "-m":
            sys.argv = [command[2], *command[3:]]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # the module may have been imported by another command
                runpy.run_module(command[2], run_name="__main__")
            return 0
        script = Path(command[1]).absolute()
        sys.argv = [command[1], *command[2:]]
        sys.path.insert(0, str(script.parent))
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.path.remove(str(script.parent))
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)


_helps: dict[tuple[str, ...], str] = {}


def _help(command: Sequence[str]) -> str:
    """Return the help text of a command or subcommand, cached."""
    head = command_head(command)
    key = (os.getcwd(), *head)  # packages may have scripts of the same name
    if key not in _helps:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run_command([*head, "-h"])
        _helps[key] = out.getvalue()
    return _helps[key]


def command_head(command: Sequence[str]) -> tuple[str, ...]:
    """Return the part of a command that determines its options: script or module, and subcommand."""
    head = tuple(command[: 3 if command[1] == "-m" else 2])
    rest = command[len(head) :]
    return (*head, rest[0]) if rest and not rest[0].startswith("-") else head


@contextmanager
def _command_environment(spec: JobSpec) -> Iterator[None]:
    """Set folder, environment and output for a command; restore them afterwards and free memory."""
    log = Path(spec.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.getcwd(), sys.argv, dict(os.environ), os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if spec.deadline is not None:
        os.environ[DEADLINE] = str(spec.deadline)
    try:
        os.chdir(spec.folder)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(before[0])
        sys.argv = before[1]
        os.environ.clear()
        os.environ.update(before[2])
        for number, copy in ((1, before[3]), (2, before[4])):
            os.dup2(copy, number)
            os.close(copy)
        _restore_torch()


def _restore_torch() -> None:
    """Reset process-wide torch settings for the next command."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(threads) if threads.isdigit() and int(threads) else os.cpu_count() or 1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_and_commit() -> tuple[str, str | None]:
    if "torch" not in sys.modules:
        return "", None
    import torch

    from common.runs import describe_environment, git_commit

    try:
        return describe_environment("cuda" if torch.cuda.is_available() else "cpu")["device"], git_commit()
    except RuntimeError:
        return "", git_commit()


def _last_lines(log: Path) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:])
    except OSError:
        return ""
