"""Do as much of a plan as fits: the order of jobs, second tries, the deadline."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from common.campaign.estimate import Estimates
from common.campaign.folder import Folder
from common.campaign.plan import Job, Options, resolve
from common.campaign.worker import SPEED_UPS, Order, Outcome, carry_out, head_of
from common.errors import UserError
from common.executor import JobResult, ProcessPool, claim_file
from common.interruption import Stopped

SAME_EPOCH = {"--epochs", "--finetune-epochs", "--device"}  # options with which an epoch takes as long as without
TRIES = 2  # of a job that fails; the second one without optional speed-ups
CRASHES = 3  # ends of a worker, however caused, that a job may see


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
    claims: dict[str, ExitStack] = field(default_factory=dict)
    stopping: bool = False

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
        by_name = {job.name: job for job in self.jobs}
        found = [
            job
            for job in self.jobs
            if job.name not in self.claims
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
        threads = max(1, cores() // self.workers)
        with (
            ExitStack() as claims,
            suppress(Stopped),
            ProcessPool[Job](threads, _give_way if self.nice else None) as pool,
        ):
            claims.callback(self._release)
            self.begin()
            while not self.stopping:
                waiting = self._start_jobs(pool)
                if not waiting and not pool.jobs:
                    break
                self._note_all(pool.wait())
                self.stopping = pool.stopping or (self.deadline is not None and time.time() >= self.deadline)
            pool.stop()
            self._note_all(pool.finish())

    def _start_jobs(self, pool: ProcessPool[Job]) -> bool:
        """Start as many jobs as may run now; whether there are others that wait, or that somebody else is at."""
        elsewhere = False
        for job in self.open_jobs():
            running = pool.jobs
            if len(running) >= self.workers or any(other.alone for other in running):
                return True
            if job.alone and running:
                continue
            with ExitStack() as claim:
                mine = claim.enter_context(claim_file(self.folder.job(job.name) / "lock"))
                elsewhere = elsewhere or not mine
                if mine and not self.done(job):
                    self._start(job, pool)
                    self.claims[job.name] = claim.pop_all()
        return elsewhere

    def _start(self, job: Job, pool: ProcessPool[Job]) -> None:
        plain = self.failures.get(job.name, 0) > 0
        output = self.folder.output(job)
        shared = sum(other.out == job.out for other in self.jobs) > 1
        if not shared and output.exists() and not self.folder.has_files(job.name, job.out):
            self.folder.put_aside(output, job.out)  # its command would find it finished
        self.folder.ask(job, self.identities[job.name], shared)
        names = [*job.words, *(name for name, _ in (*job.options, *job.quick, *self.extra))]
        if plain and not shared and output.exists() and any(name.partition("=")[0] in SPEED_UPS for name in names):
            self.folder.put_aside(output, job.out)  # a run with other options cannot resume it
        pool.start(job, carry_out, self._order_for(job, plain=plain))
        seconds = self.estimates.seconds_left(job, output)
        about = "" if seconds is None else f" (about {_duration(seconds)})"
        self.log(f"{_now()} begins    {job.name}{about}")

    def _order_for(self, job: Job, plain: bool = False) -> Order:
        options = [*job.options, *((("--device", (self.device,)),) if self.device else ())]
        extra = [*(job.quick if self.quick else ()), *self.extra]
        words = resolve(job, self.folder.outputs(self.jobs))
        log = str(self.folder.log(job.name).resolve())
        return Order(job.name, words, str(job.folder), log, tuple(options), tuple(extra), self.deadline, plain)

    def _note_all(self, results: Iterable[tuple[Job, JobResult]]) -> None:
        for job, result in results:
            with self.claims.pop(job.name):
                self._note(job, result)

    def _note(self, job: Job, result: JobResult) -> None:
        if result.state == "finished":
            outcome: Outcome = result.value
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
        elif result.state == "stopped":
            self.stopped.add(job.name)
            self.log(f"{_now()} stopped   {job.name}; it resumes")
        elif result.state == "crashed":  # killed, or out of memory
            self.crashes[job.name] = self.crashes.get(job.name, 0) + 1
            self.folder.fail(job.name, f"its process ended with {result.reason}")
            self.log(f"{_now()} ended     {job.name}: {result.reason}" + ("" if self.failed(job) else "; it resumes"))
        else:
            self.failures[job.name] = self.failures.get(job.name, 0) + 1
            self.folder.fail(job.name, result.reason or f"exit status {result.status}")
            again = "" if self.failed(job) else "; once more without speed-ups"
            self.log(f"{_now()} failed    {job.name}: {self.folder.why_failed(job.name)}{again}")

    def _release(self) -> None:
        """Release the claims of jobs that were ended."""
        for claim in self.claims.values():
            claim.close()
        self.claims.clear()


def known_options(jobs: Sequence[Job], extra: Options, log: Callable[[str], None]) -> dict[str, tuple[str, ...]] | None:
    """Which of the extra options each job's command knows, by the job's name; None if there are none.

    Says which packages do not know an option. Raises UserError for an option that no command of the plan knows.
    """
    if not extra:
        return None
    asked: dict[tuple[str, ...], tuple[str, ...]] = {}
    found: dict[str, tuple[str, ...]] = {}
    with ProcessPool[Job]() as pool:
        for job in jobs:
            head = (str(job.folder), *head_of(job.words))
            if head not in asked and job.problem is None:
                order = Order(job.name, job.words, str(job.folder), os.devnull, extra=tuple(extra), known_only=True)
                pool.start(job, carry_out, order)
                ((_, result),) = pool.finish()
                if pool.stopping:
                    raise Stopped("stopped")
                if result.state == "crashed":
                    raise UserError("the process that asks commands for their options has ended")
                if result.state != "finished":
                    raise UserError(
                        f"{job.name}: {result.reason.splitlines()[-1] if result.reason else 'its -h fails'}"
                    )
                asked[head] = result.value.known
            found[job.name] = asked.get(head, ())
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


def _give_way() -> None:
    """Let everything else on this machine go first."""
    os.nice(19 - os.nice(0))
    with suppress(OSError):
        os.setsid()  # Linux weighs sessions against one another: that of the terminal stays as it is
        with open("/proc/self/autogroup", "w") as file:
            file.write("19")


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
