"""Jobs in processes of their own, and claims: which process does which job.

    with Processes() as processes:
        for seed in seeds:
            processes.start(seed, train, seed)  # calls train(seed) in another process
        for seed, result in processes.finish():
            print(seed, result.state, result.value)

SIGTERM and Ctrl-C are passed on to the jobs, which stop where they can be resumed; once more ends them at once. However this
process ends, even by SIGKILL, its processes end with it. A second engine is a class with the public names of Processes.
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
from common.interruption import SAME, STOPPED, Stopped, graceful, stop_requested

Job = TypeVar("Job")  # what a job is known by
PAUSE = 1.0  # seconds between two looks for a signal
GRACE = 900.0  # seconds in which jobs that were told to stop may end their epoch
PATIENCE = 60.0  # seconds in which an idle process may end
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STATES = {0: "finished", STOPPED: "stopped", INTERRUPTED: "stopped", INVALID_INPUT: "invalid"}  # by exit status


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Claim the file ``path``: True; or False at once if somebody else holds it, unless it is to ``wait``.

    The system releases it when the process ends, however it ends. The file stays: if it were deleted, two could hold it.
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
class Result:
    """How a job ended: exit status, what it returned, why it failed; died: its process ended without an answer."""

    status: int = 0
    value: Any = None
    why: str = ""
    died: bool = False

    @property
    def state(self) -> str:
        """finished, stopped (can be resumed), invalid (user error), failed (any other error), crashed (its process died)."""
        return "crashed" if self.died else STATES.get(self.status, "failed")


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    life: connection.Connection  # the process ends when it is closed, by this process or by its end

    def answers(self) -> bool:
        """Whether the idle process is there: the pipe of one that was killed may still be open for a moment."""
        with suppress(EOFError, ConnectionError):
            self.pipe.send(None)
            return self.pipe.recv() is None
        return False

    def end(self) -> None:
        self.life.close()
        self.process.join(SAME)
        self.process.kill()  # nothing, unless it did not hear that
        self.process.join()


class Processes(Generic[Job]):
    """As many processes as there are jobs at a time; one that has ended its job takes the next, with its imports done.

    Args:
        threads: Threads of each process, where ``OMP_NUM_THREADS`` is not set.
        setup: Called first in every process.
    """

    def __init__(self, threads: int | None = None, setup: Callable[[], object] | None = None) -> None:
        self._arguments = threads, setup
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Job] = {}
        self._told: set[_Worker] = set()
        self._since: float | None = None  # when jobs were told to stop
        self._signals = graceful(SIGNALS)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """End what is still running. Raises Stopped if a signal came."""
        for worker in self._busy:
            worker.life.close()
        for worker in self._idle:
            worker.pipe.close()  # these end by themselves, with all that Python does at its end
        for worker in self._idle:
            worker.process.join(PATIENCE)
        for worker in [*self._idle, *self._busy]:
            worker.end()
        return self._signals.__exit__(*error)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that are running."""
        return list(self._busy.values())

    @property
    def stopping(self) -> bool:
        """Whether jobs were told to stop: no more should be started."""
        return self._since is not None

    def start(self, job: Job, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in an idle process. It returns its exit status, a Result, or any other value: status 0."""
        while self._idle and not self._idle[-1].answers():
            self._idle.pop().end()  # it was killed while it was idle
        worker = self._idle.pop() if self._idle else self._new()
        self._busy[worker] = job
        with suppress(ConnectionError):  # wait() finds that it died
            worker.pipe.send((function, arguments))

    def wait(self, seconds: float = PAUSE) -> list[tuple[Job, Result]]:
        """The jobs that ended: as soon as one has, or after these seconds. After a signal the others are told to stop."""
        workers: dict[Any, _Worker] = {worker.pipe: worker for worker in self._busy}
        if not workers:
            time.sleep(seconds)
        ended = connection.wait(list(workers), seconds) if workers else []
        results = [(self._busy.pop(worker), self._result(worker)) for worker in map(workers.__getitem__, ended)]
        if stop_requested():
            if not self.stopping:
                print("stopping after the current epochs; once more to stop at once", file=sys.stderr, flush=True)
            self.stop()
        return results

    def finish(self) -> Iterator[tuple[Job, Result]]:
        """All jobs as they end; those that were told to stop have ``GRACE`` for it."""
        while self._busy:
            if self._since and time.monotonic() > self._since + GRACE:
                for worker in self._busy:
                    worker.end()
            yield from self.wait()

    def stop(self) -> None:
        """Tell every job, once, to stop where it can be resumed."""
        self._since = self._since or time.monotonic()
        for worker in self._busy.keys() - self._told:
            self._told.add(worker)
            worker.process.terminate()

    def _new(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        (here, there), (life_there, life) = context.Pipe(), context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(there, life_there, *self._arguments))
        _block_signals(True)  # the process gets them once it is ready for them
        try:
            process.start()
        finally:
            _block_signals(False)
        there.close()
        life_there.close()
        return _Worker(process, here, life)

    def _result(self, worker: _Worker) -> Result:
        try:
            result = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            code = worker.process.exitcode or 0
            if worker in self._told and (
                code <= 0 or code == STOPPED
            ):  # before the job began, after it, or after GRACE
                return Result(STOPPED, why="stopped")
            why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return Result(code, why=why, died=True)
        self._idle.append(worker)
        return result


def call(command: Sequence[str], folder: Path | str | None = None) -> int:
    """Run a command to its end; its exit status. A job for :class:`Processes`: the command stops and ends with it."""
    try:
        with graceful():  # a signal waits until the command is known
            _commands.append(subprocess.Popen(command, cwd=folder))
        return _commands[-1].wait()
    except KeyboardInterrupt:
        _commands[-1].terminate()
        return _commands[-1].wait()
    finally:
        while _commands:
            _commands.pop().kill()  # nothing, unless a second signal came


_commands: list[subprocess.Popen] = []  # of this process
_signals: list[float] = []  # when the job of this process was told to stop, in seconds of a clock


def _serve(
    pipe: connection.Connection, life: connection.Connection, threads: int | None, setup: Callable | None
) -> None:
    """Do jobs until the pipe is closed."""
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which sends SIGTERM
    signal.signal(signal.SIGTERM, _stop)
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with suppress(KeyboardInterrupt, EOFError, ConnectionError):
        _block_signals(False)
        if setup:
            setup()
        while True:
            job = pipe.recv()
            pipe.send(_call(*job) if job else None)


def _call(function: Callable[..., Any], arguments: Sequence[Any]) -> Result:
    _signals.clear()
    try:
        value = function(*arguments)
        result = value if isinstance(value, Result) else Result(value if type(value) is int else 0, value)
    except KeyboardInterrupt as stopped:
        result = Result(STOPPED, why=str(stopped))
    except UserError as error:
        result = Result(INVALID_INPUT, why=str(error))
    except SystemExit as end:
        result = Result(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException as error:  # of a job; the others go on
        traceback.print_exc()
        result = Result(1, why=f"{type(error).__name__}: {error}")
    if result.status and _signals:  # a command may turn the signal into an error of its own, say during an import
        result = Result(STOPPED, result.value, "stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    return result


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _signals or now - _signals[-1] >= SAME:
        _signals.append(now)
        raise Stopped("stopped")


def _end_with(life: connection.Connection) -> None:
    """End this process and its command at once when the parent wants it or has ended: every job can be resumed."""
    life.poll(None)
    for command in list(_commands):
        command.kill()
    os._exit(STOPPED)


def _block_signals(block: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):
        if block:
            resource_tracker.ensure_running()  # with the first process, it would unblock them again
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, SIGNALS)
