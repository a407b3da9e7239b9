"""Do as much of a plan as fits: worker processes, the order of jobs, second tries, the deadline, signals."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from filelock import FileLock, Timeout

from common.campaign.estimate import Estimates
from common.campaign.folder import Folder
from common.campaign.plan import Job, Options, resolve
from common.campaign.worker import SPEED_UPS, Order, Outcome, head_of, work
from common.errors import UserError
from common.interruption import STOPPED

SAME_EPOCH = {"--epochs", "--finetune-epochs", "--device"}  # options with which an epoch takes as long as without
TRIES = 2  # of a job that fails; the second one without optional speed-ups
CRASHES = 3  # ends of a worker, however caused, that a job may see
PAUSE = 1.0  # seconds between two looks at the clock
GRACE = 900.0  # seconds after the deadline or a signal in which jobs may end their epoch


@dataclass
class Worker:
    """A process and what it is doing."""

    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    lock: FileLock | None = None


@dataclass
class Runner:
    """One call of ``run``: the jobs of the plan that were chosen, and how they stand."""

    jobs: Sequence[Job]
    identities: dict[str, str]
    folder: Folder
    estimates: Estimates
    extra: Options = ()
    device: str | None = None
    quick: bool = False
    workers: int = 1
    deadline: float | None = None
    nice: bool = False
    log: Callable[[str], None] = print
    begin: Callable[[], None] = lambda: None
    failures: dict[str, int] = field(default_factory=dict)
    crashes: dict[str, int] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    signals: int = 0
    stopping: bool = False
    team: list[Worker] = field(default_factory=list)

    # --- states

    def done(self, job: Job) -> bool:
        """Whether nothing is left to do for it; one whose files were deleted is made again."""
        return self.folder.is_done(job.name, self.identities[job.name]) and self.folder.has_files(job.name, job.out)

    def failed(self, job: Job) -> bool:
        return (
            job.problem is not None
            or self.failures.get(job.name, 0) >= TRIES
            or self.crashes.get(job.name, 0) >= CRASHES
        )

    def open_jobs(self) -> list[Job]:
        """Jobs that are neither done nor given up nor being made here, and whose needs are done; in the order of work."""
        busy = {worker.job.name for worker in self.team if worker.job}
        by_name = {job.name: job for job in self.jobs}
        found = [
            job
            for job in self.jobs
            if job.name not in busy
            and job.name not in self.ran | self.stopped
            and not self.failed(job)
            and not self.done(job)
            and all(self.done(by_name[need]) for need in job.needs)
        ]
        left = None if self.deadline is None else self.deadline - time.time()
        return sorted(found, key=lambda job: self._order(job, left))

    def _order(self, job: Job, left: float | None) -> tuple[float, bool, float]:
        seconds = self.estimates.seconds_left(job, self.folder.output(job))
        fits = left is None or seconds is None or seconds <= left
        return (-job.priority, not fits, -(seconds or 0.0))

    # --- work

    def run(self) -> None:
        """Work until everything is done, given up, or the time is over."""
        if not any(not self.done(job) and not self.failed(job) for job in self.jobs):
            return
        with _signals(self):
            try:
                self.begin()
                while not self.stopping:
                    waiting = self._start_jobs()
                    if not waiting and not any(worker.job for worker in self.team):
                        break
                    self._look(PAUSE)
                self._wind_up()
            finally:
                self._end_workers()

    def _start_jobs(self) -> bool:
        """Give every idle worker a job; whether there are jobs that somebody else is making."""
        elsewhere = False
        for job in self.open_jobs():
            running = [worker.job for worker in self.team if worker.job]
            if len(running) >= self.workers or any(other.alone for other in running):
                return True
            if job.alone and running:
                continue
            self.folder.job(job.name).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder.job(job.name) / "lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                elsewhere = True
                continue
            if self.done(job):
                lock.release()
                continue
            self._start(job, lock)
        return elsewhere

    def _start(self, job: Job, lock: FileLock) -> None:
        worker = self._worker()
        plain = self.failures.get(job.name, 0) > 0
        output = self.folder.output(job)
        shared = sum(other.out == job.out for other in self.jobs) > 1
        if not shared and output.exists() and not self.folder.has_files(job.name, job.out):
            self.folder.put_aside(output, job.out)  # its command would find it finished
        self.folder.ask(job, self.identities[job.name], shared)
        names = [*job.words, *(name for name, _ in (*job.options, *job.quick, *self.extra))]
        if plain and not shared and output.exists() and any(name.partition("=")[0] in SPEED_UPS for name in names):
            self.folder.put_aside(output, job.out)  # a run with other options cannot resume it
        worker.job, worker.lock = job, lock
        worker.pipe.send(self._order_for(job, plain=plain))
        seconds = self.estimates.seconds_left(job, output)
        about = "" if seconds is None else f" (about {_duration(seconds)})"
        self.log(f"{_now()} begins    {job.name}{about}")

    def _order_for(self, job: Job, plain: bool = False) -> Order:
        options = [*job.options, *((("--device", (self.device,)),) if self.device else ())]
        extra = [*(job.quick if self.quick else ()), *self.extra]
        words = resolve(job, self.folder.outputs(self.jobs))
        log = str(self.folder.log(job.name).resolve())
        return Order(job.name, words, str(job.folder), log, tuple(options), tuple(extra), self.deadline, plain)

    def _worker(self) -> Worker:
        """An idle worker, started if there is none."""
        self.team = [worker for worker in self.team if worker.job or worker.process.is_alive()]
        for worker in self.team:
            if worker.job is None:
                return worker
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.workers)))
        self.team.append(start_worker(self.nice))
        return self.team[-1]

    def _look(self, seconds: float) -> None:
        """Wait for an outcome, the end of a worker, or at most these seconds; note what happened."""
        sources: dict[object, Worker] = {worker.pipe: worker for worker in self.team if worker.job}
        if not sources:
            time.sleep(seconds)
        for source in wait(list(sources), timeout=seconds):  # type: ignore[arg-type]
            worker = sources[source]
            try:
                self._note(worker, worker.pipe.recv())
            except (EOFError, OSError):
                self._note_end(worker)
        if self.deadline is not None and time.time() >= self.deadline:
            self.stopping = True

    def _note(self, worker: Worker, outcome: Outcome) -> None:
        job, worker.job = worker.job, None
        assert job is not None and worker.lock is not None
        try:
            if outcome.status == 0:
                if not self.quick and {name for name, _ in self.extra} <= SAME_EPOCH:
                    self.estimates.learn(job, self.folder.output(job), outcome.device)
                self.folder.finish(
                    job.name,
                    {
                        "identity": self.identities[job.name],
                        "command": " ".join(outcome.words),
                        "package": job.package,
                        "kept": self.folder.kept(job),
                        "seconds": round(outcome.seconds, 1),
                        "device": outcome.device,
                        "commit": outcome.commit,
                    },
                )
                self.ran.add(job.name)
                self.log(f"{_now()} done      {job.name} in {_duration(outcome.seconds)}")
            elif outcome.status == STOPPED:
                self.stopped.add(job.name)
                self.log(f"{_now()} stopped   {job.name}; it resumes")
            else:
                self.failures[job.name] = self.failures.get(job.name, 0) + 1
                self.folder.fail(job.name, outcome.why or f"exit status {outcome.status}")
                again = "" if self.failed(job) else "; once more without speed-ups"
                self.log(f"{_now()} failed    {job.name}: {self.folder.why_failed(job.name)}{again}")
        finally:
            worker.lock.release()

    def _note_end(self, worker: Worker) -> None:
        """A worker ended in the middle of a job: killed, or out of memory."""
        worker.process.join()
        self.team.remove(worker)
        job, code = worker.job, worker.process.exitcode
        assert job is not None and worker.lock is not None
        self.crashes[job.name] = self.crashes.get(job.name, 0) + 1
        what = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        self.folder.fail(job.name, f"its process ended with {what}")
        self.log(f"{_now()} ended     {job.name}: {what}" + ("" if self.failed(job) else "; it resumes"))
        worker.lock.release()

    def _wind_up(self) -> None:
        """Let running jobs keep their state; after some time end them."""
        busy = [worker for worker in self.team if worker.job]
        for worker in busy:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid or 0, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while any(worker.job for worker in self.team) and time.monotonic() < end:
            self._look(PAUSE)

    def _end_workers(self) -> None:
        for worker in self.team:
            worker.pipe.close()
            if worker.job is not None and worker.process.pid:
                worker.process.kill()
        for worker in self.team:
            worker.process.join()
            if worker.job is not None and worker.lock is not None:
                worker.lock.release()
        self.team.clear()


def start_worker(nice: bool = False) -> Worker:
    """A process that waits for orders."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, os.getpid(), nice), daemon=False)
    process.start()
    there.close()
    return Worker(process, here)


def known_options(jobs: Sequence[Job], extra: Options, log: Callable[[str], None]) -> dict[str, tuple[str, ...]] | None:
    """Which of the extra options each job's command knows, by the job's name; None if there are none.

    Says which packages do not know an option. Raises UserError for an option that no command of the plan knows.
    """
    if not extra:
        return None
    asked: dict[tuple[str, ...], tuple[str, ...]] = {}
    found: dict[str, tuple[str, ...]] = {}
    worker = start_worker()
    try:
        for job in jobs:
            head = (str(job.folder), *head_of(job.words))
            if head not in asked and job.problem is None:
                order = Order(job.name, job.words, str(job.folder), os.devnull, extra=tuple(extra), known_only=True)
                worker.pipe.send(order)
                outcome = worker.pipe.recv()
                if outcome.status:
                    raise UserError(f"{job.name}: {outcome.why.splitlines()[-1] if outcome.why else 'its -h fails'}")
                asked[head] = outcome.known
            found[job.name] = asked.get(head, ())
    except EOFError as error:
        raise UserError("the process that asks commands for their options has ended") from error
    finally:
        worker.pipe.close()
        worker.process.join()
    for name, _ in extra:
        packages = {job.package for job in jobs if job.problem is None}
        strangers = packages - {job.package for job in jobs if name in found[job.name]}
        if strangers == packages:
            raise UserError(f"no command of this plan knows {name}")
        if strangers:
            log(f"{name} is unknown to the commands of {', '.join(sorted(strangers))}")
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(pipe: Connection, parent: int, nice: bool) -> None:
    if nice:
        os.nice(19 - os.nice(0))
        with suppress(OSError):
            os.setsid()  # Linux weighs sessions against one another: that of the terminal stays as it is
            with open("/proc/self/autogroup", "w") as file:
                file.write("19")
    work(pipe, parent)


@contextmanager
def _signals(runner: Runner):
    """SIGTERM and Ctrl-C: stop after the current epochs; the second one ends at once."""

    def note(number: int, frame: FrameType | None) -> None:
        if runner.signals:
            for worker in runner.team:
                worker.process.kill()
            raise KeyboardInterrupt
        runner.signals += 1
        runner.stopping = True
        print("stopping after the current epochs; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
