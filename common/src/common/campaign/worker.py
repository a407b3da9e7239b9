"""A process of a campaign that makes one job after another; it imports torch once.

It speaks through a pipe: it gets an :class:`Order` and answers with an :class:`Outcome`. When the process that started it is
gone it ends at once: every command can be resumed.
"""

import contextlib
import gc
import io
import os
import re
import runpy
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.campaign.plan import Options
from common.cli import INTERRUPTED
from common.interruption import DEADLINE, STOPPED, Stopped

# Options that a failed job is tried again without, and how many values each has.
SPEED_UPS = {"--amp": 0, "--compile": 0, "--graph": 1}
DATASET, DATASET_DIR = "--dataset", "--dataset-dir"
TAIL = 20  # lines of a log that say why a job failed


@dataclass(frozen=True)
class Order:
    """A command: words as typed, the folder it runs in, options for it if it knows them, its log, the deadline.

    plain: without optional speed-ups. known_only: run nothing, answer which of the options it knows.
    """

    name: str
    words: tuple[str, ...]
    folder: str
    log: str
    options: Options = ()
    extra: Options = ()
    deadline: float | None = None
    plain: bool = False
    known_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """The exit status, the words that ran, which extra options the command knows, seconds, and why it failed."""

    name: str
    status: int
    words: tuple[str, ...]
    known: tuple[str, ...]
    seconds: float
    why: str = ""
    device: str = ""
    commit: str | None = None


def work(pipe: Connection, parent: int) -> None:
    """Take orders until the pipe is closed."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which sends SIGTERM
    signal.signal(signal.SIGTERM, _stop)
    known: dict[tuple[str, ...], str] = {}
    with contextlib.suppress(EOFError, Stopped):
        while True:
            order = pipe.recv()
            pipe.send(carry_out(order, known))


def carry_out(order: Order, known: dict[tuple[str, ...], str]) -> Outcome:
    """Run a command in this process; its output goes to the log."""
    start = time.monotonic()
    words: tuple[str, ...] = order.words
    found: tuple[str, ...] = ()
    try:
        with _surroundings(order):
            if order.options or order.extra or order.known_only:
                text = _help(order.words, known)
                words, found = with_options(order, text)
            if order.plain:
                words = without_speed_ups(words)
            if order.known_only:
                return Outcome(order.name, 0, words, found, 0.0)
            print(f"\n$ {' '.join(words)}", flush=True)
            status = run_command(words)
            interrupted = status == INTERRUPTED  # Ctrl-C does not reach this process: a second SIGTERM did
            status = STOPPED if interrupted or (status and _stopping) else status
            why = "" if status in (0, STOPPED) else _tail(Path(order.log))
    except KeyboardInterrupt as stopped:  # of Stopped too: the command had no way to catch it
        return Outcome(order.name, STOPPED, words, found, time.monotonic() - start, str(stopped))
    except BaseException as error:  # whatever a command may raise, the others go on
        if _stopping:  # in the middle of an import, say
            return Outcome(order.name, STOPPED, words, found, time.monotonic() - start, "stopped")
        why = f"{''.join(traceback.format_exception(error))}{type(error).__name__}: {error}"
        return Outcome(order.name, 1, words, found, time.monotonic() - start, why)
    device, commit = _environment()
    return Outcome(order.name, status, words, found, time.monotonic() - start, why, device, commit)


def with_options(order: Order, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the words with the options that the command knows behind them, names of the extra ones among those).

    The data set's folder belongs to the data set: it goes when an extra option names another data set.
    """
    words = list(order.words)
    known = [(name, values) for name, values in order.extra if knows(text, name)]
    names = [name for name, _ in known]
    if DATASET in names and DATASET_DIR not in names and DATASET_DIR in words:
        place = words.index(DATASET_DIR)
        del words[place : place + 2]
    for name, values in [*((n, v) for n, v in order.options if knows(text, n) and n not in words), *known]:
        words += [name, *values]
    return tuple(words), tuple(names)


def knows(text: str, option: str) -> bool:
    """Whether a command's -h lists an option."""
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def without_speed_ups(words: Sequence[str]) -> tuple[str, ...]:
    """The words without options that only make a command faster."""
    kept: list[str] = []
    skip = 0
    for word in words:
        if word in SPEED_UPS:
            skip = SPEED_UPS[word]
        elif word.partition("=")[0] in SPEED_UPS:
            skip = 0
        elif skip:
            skip -= 1
        else:
            kept.append(word)
    return tuple(kept)


def run_command(words: Sequence[str]) -> int:
    """Run ``python SCRIPT ...`` or ``python -m MODULE ...`` in this process; its exit status."""
    try:
        if words[1] == "-m":
            sys.argv = [words[2], *words[3:]]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # the module may have been imported by another command
                runpy.run_module(words[2], run_name="__main__")
            return 0
        script = Path(words[1]).absolute()
        sys.argv = [words[1], *words[2:]]
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


def _help(words: Sequence[str], known: dict[tuple[str, ...], str]) -> str:
    """What a command prints for -h. Sub-commands are told apart by their first word."""
    head = head_of(words)
    key = (os.getcwd(), *head)  # two packages may have scripts of one name
    if key not in known:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run_command([*head, "-h"])
        known[key] = out.getvalue()
    return known[key]


def head_of(words: Sequence[str]) -> tuple[str, ...]:
    """What decides which options a command knows: its script or module, and a sub-command."""
    head = tuple(words[: 3 if words[1] == "-m" else 2])
    rest = words[len(head) :]
    return (*head, rest[0]) if rest and not rest[0].startswith("-") else head


@contextmanager
def _surroundings(order: Order) -> Iterator[None]:
    """Folder, arguments, environment and output of a command; all put back afterwards, memory freed."""
    log = Path(order.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.getcwd(), sys.argv, dict(os.environ), os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if order.deadline is not None:
        os.environ[DEADLINE] = str(order.deadline)
    try:
        os.chdir(order.folder)
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
    """What commands set for the whole process is set back for the next one."""
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


def _environment() -> tuple[str, str | None]:
    if "torch" not in sys.modules:
        return "", None
    import torch

    from common.runs import describe_environment, git_commit

    try:
        return describe_environment("cuda" if torch.cuda.is_available() else "cpu")["device"], git_commit()
    except RuntimeError:
        return "", git_commit()


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-TAIL:])
    except OSError:
        return ""


_stopping: list[int] = []  # the signal that ends this process; a command may turn it into an error of its own


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _stopping.append(number)
    raise Stopped("stopped")


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however it ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
