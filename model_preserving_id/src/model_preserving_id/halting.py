"""A function that halts in its middle and goes on when it is wanted again, whatever it calls: a generator without ``yield``.

It runs in a thread of its own, and only while somebody waits for it: there is never more than one at work.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any


def halting(body: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """Yields what ``body`` hands to its argument; in between ``body`` stands still. Its errors are raised here.

    Closed before its end, it ends there: ``body``'s own clean-up runs.
    """
    go, back = threading.Semaphore(0), threading.Semaphore(0)
    handed: list[Any] = []
    errors: list[BaseException] = []
    over, closed = threading.Event(), threading.Event()

    def hand_over(value: Any) -> None:
        handed.append(value)
        back.release()
        go.acquire()
        if closed.is_set():
            raise _Closed

    def run() -> None:
        go.acquire()
        try:
            if not closed.is_set():
                body(hand_over)
        except _Closed:
            pass
        except BaseException as error:  # it belongs to whoever waits
            errors.append(error)
        over.set()
        back.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            go.release()
            back.acquire()
            if errors:
                raise errors[0]
            if over.is_set():
                return
            yield handed.pop()
    finally:
        closed.set()
        go.release()
        thread.join()


class _Closed(BaseException):
    """Nobody waits any more."""
