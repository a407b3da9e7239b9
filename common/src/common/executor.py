"""Process pool for jobs, and file locks with which processes claim jobs.

    with ProcessPool() as pool:
        for seed in seeds:
            pool.start(seed, train, seed)  # calls train(seed) in another process
        for seed, result in pool.finish():
            print(seed, result.state, result.value)

SIGTERM and Ctrl-C are forwarded to the jobs, which stop at a point from which they can be resumed; a second signal ends them
immediately. The worker processes end with this process, even after SIGKILL. Another engine, e.g. for a cluster, is a class with
the public names of ProcessPool.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Self, TypeVar

from filelock import FileLock, Timeout

from common.cli import INTERRUPTED, INVALID_INPUT
from common.errors import UserError
from common.interruption import SAME_SIGNAL, STOPPED, Stopped, defer_signals, stop_requested

Job = TypeVar("Job")  # identifier of a job
PAUSE = 1.0  # seconds between two checks for a signal
GRACE = 900.0  # seconds for jobs to finish their epoch after a request to stop
IDLE_EXIT = 60.0  # seconds for an idle process to exit
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STATES = {0: "finished", STOPPED: "stopped", INTERRUPTED: "stopped", INVALID_INPUT: "invalid"}  # by exit status


@contextmanager
def claim_file(path: Path, wait: bool = False) -> Iterator[bool]:
    """Lock the file ``path`` and yield True, or yield False if another process holds it and ``wait`` is false.

    The operating system releases the lock when the process ends. The file is not deleted: otherwise two processes could hold the
    lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(blocking=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@dataclass(frozen=True)
class JobResult:
    """Exit status, return value and reason of failure of a job; crashed: its process ended without a result."""

    status: int = 0
    value: Any = None
    reason: str = ""
    crashed: bool = False

    @property
    def state(self) -> str:
        """finished, stopped (can be resumed), invalid (user error), failed (any other error) or crashed (its process ended)."""
        return "crashed" if self.crashed else STATES.get(self.status, "failed")


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    lifeline: connection.Connection  # the worker exits when it is closed, explicitly or because this process ended

    def responds(self) -> bool:
        """Return whether the idle process is alive: after it was killed, its pipe may stay open for a moment."""
        with suppress(EOFError, ConnectionError):
            self.pipe.send(None)
            return self.pipe.recv() is None
        return False

    def end(self) -> None:
        self.lifeline.close()
        self.process.join(SAME_SIGNAL)
        self.process.kill()  # no effect if it has exited
        self.process.join()


class ProcessPool(Generic[Job]):
    """A pool with one process per running job; idle processes are reused, so that imports are done once.

    Args:
        threads: Threads of each process, unless ``OMP_NUM_THREADS`` is set.
        setup: Function that is called first in every process.
    """

    def __init__(self, threads: int | None = None, setup: Callable[[], object] | None = None) -> None:
        self._arguments = threads, setup
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Job] = {}
        self._notified: set[_Worker] = set()
        self._stopped_at: float | None = None  # when jobs were requested to stop
        self._signals = defer_signals(SIGNALS)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """End all processes. Raises Stopped if a signal was received."""
        for worker in self._busy:
            worker.lifeline.close()
        for worker in self._idle:
            worker.pipe.close()  # idle processes exit normally
        for worker in self._idle:
            worker.process.join(IDLE_EXIT)
        for worker in [*self._idle, *self._busy]:
            worker.end()
        return self._signals.__exit__(*error)

    @property
    def jobs(self) -> list[Job]:
        """Running jobs."""
        return list(self._busy.values())

    @property
    def stopping(self) -> bool:
        """Whether jobs were requested to stop; then no more should be started."""
        return self._stopped_at is not None

    def start(self, job: Job, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in an idle process. It returns an exit status, a JobResult, or any other value (status 0)."""
        while self._idle and not self._idle[-1].responds():
            self._idle.pop().end()  # killed while it was idle
        worker = self._idle.pop() if self._idle else self._new()
        self._busy[worker] = job
        with suppress(ConnectionError):  # wait() reports the crash
            worker.pipe.send((function, arguments))

    def wait(self, seconds: float = PAUSE) -> list[tuple[Job, JobResult]]:
        """Wait until a job ends or the time is over, and return the jobs that ended. After a signal, stop the others."""
        workers: dict[Any, _Worker] = {worker.pipe: worker for worker in self._busy}
        if not workers:
            time.sleep(seconds)
        ended = connection.wait(list(workers), seconds) if workers else []
        results = [(self._busy.pop(worker), self._result(worker)) for worker in map(workers.__getitem__, ended)]
        if stop_requested():
            if not self.stopping:
                print(
                    "stopping after the current epochs; repeat the signal to stop immediately",
                    file=sys.stderr,
                    flush=True,
                )
            self.stop()
        return results

    def finish(self) -> Iterator[tuple[Job, JobResult]]:
        """Yield all jobs as they end. After :meth:`stop`, jobs are ended after ``GRACE`` seconds."""
        while self._busy:
            if self._stopped_at and time.monotonic() > self._stopped_at + GRACE:
                for worker in self._busy:
                    worker.end()
            yield from self.wait()

    def stop(self) -> None:
        """Request every job, once, to stop at a point from which it can be resumed."""
        self._stopped_at = self._stopped_at or time.monotonic()
        for worker in self._busy.keys() - self._notified:
            self._notified.add(worker)
            worker.process.terminate()

    def _new(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        (here, there), (lifeline_there, lifeline) = context.Pipe(), context.Pipe(duplex=False)
        process = context.Process(target=_run_jobs, args=(there, lifeline_there, *self._arguments))
        _block_signals(True)  # the process unblocks them when it is ready
        try:
            process.start()
        finally:
            _block_signals(False)
        there.close()
        lifeline_there.close()
        return _Worker(process, here, lifeline)

    def _result(self, worker: _Worker) -> JobResult:
        try:
            result = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            code = worker.process.exitcode or 0
            if worker in self._notified and (code <= 0 or code == STOPPED):  # before or after the job, or after GRACE
                return JobResult(STOPPED, reason="stopped")
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return JobResult(code, reason=reason, crashed=True)
        self._idle.append(worker)
        return result


def run_command(command: Sequence[str], folder: Path | str | None = None) -> int:
    """Run a command and return its exit status. As a job of :class:`ProcessPool`, the command is stopped with the job.

    The command and what it starts form a process group, which is signaled together: a shell does not forward signals.
    """
    try:
        with defer_signals():  # defer a signal until the command is recorded
            _commands.append(subprocess.Popen(command, cwd=folder, process_group=0))
        return _commands[-1].wait()
    except KeyboardInterrupt:
        _signal_command(_commands[-1], signal.SIGTERM)
        return _commands[-1].wait()
    finally:
        while _commands:
            _signal_command(_commands.pop(), signal.SIGKILL)  # no effect unless something is left


def _signal_command(command: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(command.pid, number)


_commands: list[subprocess.Popen] = []  # running commands of this process
_signals: list[float] = []  # times of requests to stop, in seconds of the monotonic clock


def _run_jobs(
    pipe: connection.Connection, lifeline: connection.Connection, threads: int | None, setup: Callable | None
) -> None:
    """Run jobs until the pipe is closed."""
    threading.Thread(target=_exit_with_parent, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent also receives Ctrl-C, and sends SIGTERM
    signal.signal(signal.SIGTERM, _handle_sigterm)
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with suppress(KeyboardInterrupt, EOFError, ConnectionError):
        _block_signals(False)
        if setup:
            setup()
        while True:
            job = pipe.recv()
            pipe.send(_run_job(*job) if job else None)


def _run_job(function: Callable[..., Any], arguments: Sequence[Any]) -> JobResult:
    _signals.clear()
    try:
        value = function(*arguments)
        result = value if isinstance(value, JobResult) else JobResult(value if type(value) is int else 0, value)
    except KeyboardInterrupt as stopped:
        result = JobResult(STOPPED, reason=str(stopped))
    except UserError as error:
        result = JobResult(INVALID_INPUT, reason=str(error))
    except SystemExit as end:
        result = JobResult(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException as error:  # an error of one job does not end the others
        traceback.print_exc()
        result = JobResult(1, reason=f"{type(error).__name__}: {error}")
    if result.status and _signals:  # the signal may surface as another error, e.g. during an import
        result = JobResult(STOPPED, result.value, "stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    return result


def _handle_sigterm(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _signals or now - _signals[-1] >= SAME_SIGNAL:
        _signals.append(now)
        raise Stopped("stopped")


def _exit_with_parent(lifeline: connection.Connection) -> None:
    """Exit immediately, with the running commands, when the parent closes the pipe or ends; every job can be resumed."""
    lifeline.poll(None)
    for command in list(_commands):
        _signal_command(command, signal.SIGKILL)
    os._exit(STOPPED)


def _block_signals(block: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):
        if block:
            resource_tracker.ensure_running()  # started with the first process, it would unblock them
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, SIGNALS)
