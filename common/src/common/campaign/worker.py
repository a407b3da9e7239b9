"""What a process of a campaign does: it carries out one :class:`Order` after another, and imports torch once."""

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
    """The words that ran, which of the extra options the command knows, seconds, device and commit."""

    words: tuple[str, ...]
    known: tuple[str, ...]
    seconds: float
    device: str = ""
    commit: str | None = None


def carry_out(order: Order) -> JobResult:
    """Run a command in this process; its output goes to the log. The value of the result is an :class:`Outcome`."""
    start = time.monotonic()
    words: tuple[str, ...] = order.words
    found: tuple[str, ...] = ()
    try:
        with _surroundings(order):
            if order.options or order.extra or order.known_only:
                words, found = with_options(order, _help(order.words))
            if order.plain:
                words = without_speed_ups(words)
            if order.known_only:
                return JobResult(0, Outcome(words, found, 0.0))
            print(f"\n$ {' '.join(words)}", flush=True)
            status = run_command(words)
    except Exception as error:  # whatever a command may raise, the others go on
        why = f"{''.join(traceback.format_exception(error))}{type(error).__name__}: {error}"
        return JobResult(1, reason=why)
    why = "" if status == 0 else _tail(Path(order.log))
    return JobResult(status, Outcome(words, found, time.monotonic() - start, *_environment()), why)


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


_helps: dict[tuple[str, ...], str] = {}


def _help(words: Sequence[str]) -> str:
    """What a command prints for -h. Sub-commands are told apart by their first word."""
    head = head_of(words)
    key = (os.getcwd(), *head)  # two packages may have scripts of one name
    if key not in _helps:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run_command([*head, "-h"])
        _helps[key] = out.getvalue()
    return _helps[key]


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
