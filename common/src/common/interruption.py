"""Stop between two epochs with the state saved: at a deadline, on SIGTERM and, in a campaign, on Ctrl-C.

The same command resumes. The environment variable ``COMPRESSION_DEADLINE`` is the deadline as Unix time in seconds.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

DEADLINE = "COMPRESSION_DEADLINE"
STOPPED = 75  # exit status of a command that can be resumed (EX_TEMPFAIL)
# Seconds within which a second SIGTERM counts as the same one: it arrives through the process group and from the parent.
SAME_SIGNAL = 5.0

PARENT = (
    "COMPRESSION_PARENT"  # environment variable: process ID of the shell script that starts a command and waits for it
)
PARENT_PAUSE = 1.0  # seconds between two looks at it

_requests: list[float] = []  # times of deferred signals, in seconds of the monotonic clock


class Stopped(KeyboardInterrupt):
    """Work was stopped at a point from which it can be resumed. Code that does not catch Ctrl-C does not catch this either."""


def stop_with_parent() -> None:
    """Send this process SIGTERM when the script that started it ends, even by SIGKILL. Without ``COMPRESSION_PARENT``, do nothing."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit() or os.getppid() != int(parent):  # inherited by a process of the command
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(PARENT_PAUSE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def deadline() -> float | None:
    """Return the deadline in Unix time; None if there is none."""
    text = os.environ.get(DEADLINE, "")
    try:
        return float(text) if text else None
    except ValueError:
        return None


def stop_requested(seconds_needed: float = 0.0) -> bool:
    """Return whether a signal was received or work of ``seconds_needed`` would end after the deadline."""
    end = deadline()
    return bool(_requests) or (end is not None and time.time() + seconds_needed > end)


@contextmanager
def defer_signals(signals: Sequence[int] = (signal.SIGTERM,)) -> Iterator[None]:
    """Defer these signals until :func:`stop_requested` is checked; a second one raises KeyboardInterrupt. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def record(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _requests and not (number == signal.SIGTERM and now - _requests[0] < SAME_SIGNAL):
            raise KeyboardInterrupt
        _requests.append(now)

    before = {number: signal.getsignal(number) for number in signals}
    # The handler of an enclosing context is kept, and ignored signals stay ignored.
    kept = [n for n, handler in before.items() if getattr(handler, "deferring", False) or handler is signal.SIG_IGN]
    replaced = [number for number in signals if number not in kept]
    record.deferring = True  # type: ignore[attr-defined]
    for number in replaced:
        signal.signal(number, record)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])
        if replaced:
            received = bool(_requests)
            _requests.clear()
            if received and sys.exc_info()[0] is None:  # during the last epoch: do not start the next task
                raise Stopped("stopped")
