"""What a command says while it works: a bar on a terminal; otherwise a line per phase, and one at least every 30 seconds.

    with activity("[2/9] l1_norm-macs0.5, seed 0", print):
        with phase("fine-tune"):
            for batch in track(batches, "epoch 1/2", total=390):
                ...

The bar and the lines carry the label of the activity. A thread draws them, so they go on where a phase has no loop. Without an
activity, nothing is printed, but ``track`` shows a bar on a terminal.
"""

import _thread
import multiprocessing
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from common.distributed import is_main
from common.log import Log

T = TypeVar("T")
SILENCE = 30.0  # seconds without a line, at most
TICK, DRAW = 1.0, 0.25  # seconds between two looks at the time, and between two drawings of a bar
BAR, COUNTS = 42, 22  # columns for the bar, the counts and the times; on a narrow terminal without the bar
NOTE = 60  # letters of a method's last message
CLEAR = "\r\x1b[J"  # from the beginning of the line to the end of the screen

_current: ContextVar["Activity | None"] = ContextVar("activity", default=None)
_line: ContextVar[int] = ContextVar("line", default=0)  # of the screen, below the cursor, on which this process draws


class Track(Generic[T]):
    """An iterable that counts its steps for the bar or the lines of the activity. See :func:`track`."""

    def __init__(self, items: Iterable[T], what: str, total: int | None) -> None:
        self._items, self.what, self.total = items, what, total
        self.done, self.since, self.status = 0, 0.0, ""
        self._bar: tqdm | None = None

    def __iter__(self) -> Iterator[T]:
        self.since = time.monotonic()
        doing = _current.get()
        if doing is None:
            shown = None if is_main() else True
            self._bar = tqdm(self._items, self.what, self.total, disable=shown, leave=False)
            yield from self._bar
            return
        doing.loops.append(self)
        try:
            for item in self._items:
                yield item
                self.done += 1
        finally:
            doing.loops.remove(self)

    def set_status(self, text: str) -> None:
        """Show a text after the counts."""
        self.status = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)


def track(items: Iterable[T], what: str, total: int | None = None) -> Track[T]:
    """Return the items for a loop whose progress is shown. total: their number, if they have no length."""
    return Track(items, what, len(items) if total is None and hasattr(items, "__len__") else total)  # type: ignore[arg-type]


@dataclass
class Activity:
    """What is being done, and what has been printed about it.

    Attributes:
        label: Beginning of the bar and of every line.
        say: Function that prints a line; None: nothing is shown.
        terminal: Whether a bar is drawn.
        line: Line of the bar, below the cursor.
        phase: Name of the current phase.
        note: A method's last message.
        loops: Running loops, the innermost last.
    """

    label: str
    say: Log | None
    terminal: bool
    line: int = 0
    phase: str = ""
    note: str = ""
    loops: list[Track[Any]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def print(self, text: str) -> None:
        """Print a line; above the bars, if there are any."""
        if self.say is None:
            return
        self.said = time.monotonic()
        with _above_bars(self.terminal):
            self.say(text)

    def describe(self, loop: Track[Any] | None) -> str:
        """Return what is being done in one line, without counts."""
        parts = [self.phase, "" if loop else self.note[:NOTE], loop.what if loop else ""]
        about = ", ".join(part for part in parts if part)
        return f"{self.label}: {about}" if about else self.label

    def heartbeat(self) -> str:
        """Return a line on what is being done."""
        loop = self.loops[-1] if self.loops else None
        counts = "" if loop is None else f", {loop.done}" + (f" of {loop.total}" if loop.total else "")
        return f"{self.describe(loop)}{counts}, after {tqdm.format_interval(time.monotonic() - self.since)}"

    def draw(self) -> None:
        """Draw the bar on its line of the terminal."""
        loop, now = (self.loops[-1] if self.loops else None), time.monotonic()
        columns = shutil.get_terminal_size().columns - 1
        text = self.describe(loop)
        wide = len(text) + BAR <= columns
        text = _fit(text, columns - (BAR if wide else COUNTS))
        if loop is not None and loop.total:
            status = f" {loop.status}" if loop.status and len(text) + BAR + len(loop.status) < columns else ""
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
            form = form if wide else "{desc}: {percentage:.0f}% [{elapsed}<{remaining}]"
            drawn = tqdm.format_meter(
                loop.done, loop.total, now - loop.since, ncols=columns, prefix=text, bar_format=form + status
            )
        else:
            count = f" {loop.done}" if loop else ""
            drawn = f"{text}{count} [{tqdm.format_interval(now - self.since)}]"
        with tqdm.get_lock(), suppress(OSError):
            below, back = "\n" * self.line, f"\x1b[{self.line}A" * bool(self.line)
            sys.stderr.write(f"{below}\r{drawn[:columns]}\x1b[K{back}\r")
            sys.stderr.flush()

    def erase(self) -> None:
        """Remove the bar, and those below it, which are drawn again."""
        with tqdm.get_lock(), suppress(OSError):
            below, back = "\n" * self.line, f"\x1b[{self.line}A" * bool(self.line)
            sys.stderr.write(f"{below}{CLEAR}{back}")
            sys.stderr.flush()


@contextmanager
def activity(label: str, say: Log | None = print) -> Iterator[Activity]:
    """Show what is done in this context, with a label.

    Args:
        say: Function that prints a line; None shows nothing, also no bars.
    """
    doing = Activity(label, _flushed if say is print else say, _is_terminal() and say is print, _line.get())
    token, end = _current.set(doing), threading.Event()
    thread = threading.Thread(target=_watch, args=(doing, end), daemon=True)
    if say is not None:
        thread.start()
    try:
        with _warnings_above_bar(doing):
            yield doing
    finally:
        _current.reset(token)
        end.set()
        if say is not None:
            thread.join()
        if doing.terminal:
            doing.erase()


def _flushed(line: str) -> None:
    print(line, flush=True)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Do a phase of the current activity: it is printed, unless there is a bar. A phase of a phase is not shown."""
    doing = _current.get()
    if doing is None or doing.phase:
        yield
        return
    doing.phase, doing.note = name, ""
    if not doing.terminal:
        doing.print(doing.describe(None))
    try:
        yield
    finally:
        doing.phase = ""


@contextmanager
def part(name: str) -> Iterator[None]:
    """Do a part of the current activity that has phases of its own; its name follows the label."""
    doing = _current.get()
    if doing is None:
        yield
        return
    before, doing.label = doing.label, f"{doing.label}, {name}"
    try:
        yield
    finally:
        doing.label = before


def note(line: str) -> None:
    """Keep a method's message, to be shown with the current phase."""
    doing = _current.get()
    if doing is not None:
        doing.note = " ".join(line.split())


def say(line: str) -> None:
    """Print a line of a command, above the bar if there is one."""
    with _above_bars(_is_terminal()):
        _flushed(line)


@contextmanager
def _above_bars(terminal: bool) -> Iterator[None]:
    """Print something where the bars are, of this process and of others: they are drawn again, below it."""
    if not terminal:
        yield
        return
    with tqdm.get_lock():
        sys.stderr.write(CLEAR)
        sys.stderr.flush()
        yield


def format_duration(seconds: float) -> str:
    """Format a duration with the precision of an estimate: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds < 10 else round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def terminal_setup() -> Callable[[], object] | None:
    """Return a function for the processes of a pool, so that only one of them and this one draws at a time; None without a terminal."""
    if not _is_terminal():
        return None
    lock = multiprocessing.get_context("spawn").RLock()
    tqdm.set_lock(lock)
    return partial(tqdm.set_lock, lock)


def use_line(line: int) -> None:
    """Draw the bars of this process on another line of the screen, counted from the cursor."""
    _line.set(line)


def _watch(doing: Activity, end: threading.Event) -> None:
    """Draw the bar, or print a line if none was printed for a while, until the activity ends."""
    try:
        while not end.wait(DRAW if doing.terminal else TICK):
            if doing.terminal:
                doing.draw()
            elif time.monotonic() - doing.said >= SILENCE:
                doing.print(doing.heartbeat())
    except (BrokenPipeError, ValueError):  # nobody reads: end the work, as the next line would
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in a process of a pool
        _thread.interrupt_main(signal.SIGTERM if ignored else signal.SIGINT)


@contextmanager
def _warnings_above_bar(doing: Activity) -> Iterator[None]:
    """Print warnings on a line of their own."""
    if not doing.terminal:
        yield
        return
    before = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        doing.erase()
        before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _is_terminal() -> bool:
    with suppress(AttributeError, ValueError):
        return sys.stderr.isatty() and sys.stdout.isatty()
    return False


def _fit(text: str, width: int) -> str:
    """Cut a text in the middle if it is longer than ``width``."""
    if len(text) <= max(width, 20):
        return text
    end = (max(width, 20) - 3) // 3
    return f"{text[: max(width, 20) - 3 - end]}...{text[-end:]}"
