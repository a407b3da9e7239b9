"""Call a function in its own process, with limits on CPU time and memory."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from common.errors import UserError

SETUP_SECONDS = (
    600  # wall-clock seconds in addition to those of the limit, of which a busy machine may need ten times as many
)

Report = Callable[..., None]


def run_limited(
    function: Callable[..., None],
    args: tuple[Any, ...],
    *,
    seconds: float,
    memory_gib: float,
    preload: Sequence[str] = (),
) -> dict[str, Any]:
    """Call a function in its own process and return what it reports: ``report(key=value)``, its last argument.

    Errors, and what ends the process, are reported in one line under "error".

    Args:
        function: A function of a module, which may limit its time with :func:`limit_cpu_time`.
        seconds: Limit of that time.
        memory_gib: Limit of the memory that the process may allocate.
        preload: Modules that are imported once for all processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(function, args, memory_gib, sender), daemon=True)
    process.start()
    sender.close()
    found: dict[str, Any] = {}
    deadline = time.monotonic() + SETUP_SECONDS + 10 * seconds
    while receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            found |= receiver.recv()
        except EOFError:
            break
    else:
        process.kill()
        found["error"] = "no result in time"
    process.join()
    if process.exitcode and "error" not in found:
        found["error"] = _name_of_end(process.exitcode, seconds)
    return found


@contextmanager
def limit_cpu_time(seconds: float) -> Iterator[None]:
    """End this process by SIGPROF when it has used more CPU time than this within the context."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _call(function: Callable[..., None], args: tuple[Any, ...], memory_gib: float, sender: Connection) -> None:
    """Limit the memory of this process and call the function; report an error in one line."""
    limit = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        function(*args, lambda **values: sender.send(values))
    except UserError as error:
        sender.send({"error": str(error)})
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:200]
        memory = isinstance(error, MemoryError) or "allocate memory" in line
        sender.send({"error": "out of memory" if memory else f"{type(error).__name__}: {line}"})


def _name_of_end(status: int, seconds: float) -> str:
    if status == -signal.SIGPROF:
        return f"over {seconds:g} s"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
