"""Stop between two epochs, with the state kept: at a deadline, on SIGTERM, and on Ctrl-C where a campaign runs the command.

The same command resumes later. ``COMPRESSION_DEADLINE`` in the environment is the deadline, in seconds of Unix time.
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

SAME = 5.0  # seconds in which a repeated SIGTERM is the same: one of a process group and one of the parent in it

_requests: list[float] = []  # when signals were received while somebody looks after them, in seconds of a clock


class Stopped(KeyboardInterrupt):
    """The work was stopped where it can be resumed. Whatever lets Ctrl-C pass lets this pass too."""


def deadline() -> float | None:
    """Unix time at which work has to stop; None if there is no deadline."""
    text = os.environ.get(DEADLINE, "")
    try:
        return float(text) if text else None
    except ValueError:
        return None


def stop_requested(seconds_needed: float = 0.0) -> bool:
    """Whether a signal arrived, or work of ``seconds_needed`` would end after the deadline."""
    end = deadline()
    return bool(_requests) or (end is not None and time.time() + seconds_needed > end)


@contextmanager
def graceful(signals: Sequence[int] = (signal.SIGTERM,)) -> Iterator[None]:
    """Note these signals instead of ending at once; a second one, later than ``SAME``, ends at once. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _requests and not (number == signal.SIGTERM and now - _requests[0] < SAME):
            raise KeyboardInterrupt
        _requests.append(now)

    before = {number: signal.getsignal(number) for number in signals}
    # Who is inside another such context keeps its way of noting, and what is ignored stays ignored.
    kept = [n for n, handler in before.items() if getattr(handler, "graceful", False) or handler is signal.SIG_IGN]
    taken = [number for number in signals if number not in kept]
    note.graceful = True  # type: ignore[attr-defined]
    for number in taken:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
        if taken:
            noted = bool(_requests)
            _requests.clear()
            if noted and sys.exc_info()[0] is None:  # in the last epoch: the next piece of work is not begun
                raise Stopped("stopped")
