"""Run the jobs of a plan: order, second attempts, deadline."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from common.campaign.campaign_folder import CampaignFolder
from common.campaign.estimate import Estimates
from common.campaign.plan import Job, Options, resolve
from common.campaign.worker import SPEED_UPS, CommandResult, JobSpec, command_head, run_job
from common.errors import UserError
from common.executor import JobResult, ProcessPool, claim_file
from common.interruption import Stopped

SAME_EPOCH = {"--epochs", "--finetune-epochs", "--device"}  # options that do not change the time per epoch
COMPARE = ("python", "-m", "compare")
ACCEPT_UNREACHABLE = "--accept-unreachable"  # of COMPARE: a target that is not reached is a result, not a failure
ATTEMPTS = 2  # for a job that fails; the second without optional speed-ups
CRASHES = 3  # after which a job is given up


@dataclass
class Runner:
    """Run the selected jobs of a plan and track their states."""

    jobs: Sequence[Job]
    identities: dict[str, str]
    folder: CampaignFolder
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
    started: dict[str, float] = field(default_factory=dict)  # time.monotonic()
    stopping: bool = False

    # --- states

    def done(self, job: Job) -> bool:
        """Return whether a job is finished and its kept files still exist."""
        return self.folder.is_done(job.name, self.identities[job.name]) and self.folder.has_files(job.name, job.out)

    def failed(self, job: Job) -> bool:
        return (
            job.problem is not None
            or self.failures.get(job.name, 0) >= ATTEMPTS
            or self.crashes.get(job.name, 0) >= CRASHES
        )

    def runnable_jobs(self) -> list[Job]:
        """List unfinished jobs that are not running here, have not failed and whose dependencies are done, in running order."""
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
        seconds = self.estimates.remaining_seconds(job, self.folder.output(job))
        fits = left is None or seconds is None or seconds <= left
        return (-job.priority, not fits, -(seconds or 0.0))

    # --- work

    def run(self) -> None:
        """Run jobs until all are done or failed, or the deadline is reached."""
        if not any(not self.done(job) and not self.failed(job) for job in self.jobs):
            return
        threads = max(1, available_cores() // self.workers)
        with (
            ExitStack() as claims,
            suppress(Stopped),
            ProcessPool[Job](threads, _lower_priority if self.nice else None) as pool,
        ):
            claims.callback(self._release)
            self.begin()
            while not self.stopping:
                waiting = self._start_jobs(pool)
                if not waiting and not pool.jobs:
                    break
                self._record_results(pool.wait())
                self.stopping = pool.stopping or (self.deadline is not None and time.time() >= self.deadline)
            pool.stop()
            self._record_results(pool.finish())

    def _start_jobs(self, pool: ProcessPool[Job]) -> bool:
        """Start jobs up to the limit; return whether others wait or are run by another process."""
        elsewhere = False
        for job in self.runnable_jobs():
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
            self.folder.move_to_stale(output, job.out)  # otherwise the command would skip it as finished
        self.folder.record_request(job, self.identities[job.name], shared)
        names = [*job.command, *(name for name, _ in (*job.options, *job.quick, *self.extra))]
        if plain and not shared and output.exists() and any(name.partition("=")[0] in SPEED_UPS for name in names):
            self.folder.move_to_stale(output, job.out)  # a run with other options cannot resume it
        pool.start(job, run_job, self._job_spec(job, plain=plain))
        self.started[job.name] = time.monotonic()
        seconds = self.estimates.remaining_seconds(job, output)
        about = "" if seconds is None else f" (about {_duration(seconds)})"
        self.log(f"{_now()} started   {job.name}{about}")

    def _job_spec(self, job: Job, plain: bool = False) -> JobSpec:
        options: list[tuple[str, tuple[str, ...]]] = [*job.options]
        options += [(ACCEPT_UNREACHABLE, ())] if tuple(job.command[:3]) == COMPARE else []
        options += [("--device", (self.device,))] if self.device else []
        extra = [*(job.quick if self.quick else ()), *self.extra]
        command = resolve(job, self.folder.outputs(self.jobs))
        log = str(self.folder.log(job.name).resolve())
        return JobSpec(job.name, command, str(job.folder), log, tuple(options), tuple(extra), self.deadline, plain)

    def _record_results(self, results: Iterable[tuple[Job, JobResult]]) -> None:
        for job, result in results:
            with self.claims.pop(job.name):
                self._record_result(job, result)

    def _record_result(self, job: Job, result: JobResult) -> None:
        if result.state != "finished":
            duration = time.monotonic() - self.started[job.name]
            self.folder.add_seconds(job.name, self.identities[job.name], duration)
        if result.state == "finished":
            done: CommandResult = result.value
            if not self.quick and {name for name, _ in self.extra} <= SAME_EPOCH:
                self.estimates.record_speed(job, self.folder.output(job), done.device)
            self.folder.finish(
                job.name,
                {
                    "identity": self.identities[job.name],
                    "command": " ".join(done.command),
                    "package": job.package,
                    "kept": self.folder.kept(job),
                    "seconds": round(self.folder.earlier_seconds(job.name) + done.seconds, 1),
                    "device": done.device,
                    "commit": done.commit,
                },
            )
            self.ran.add(job.name)
            self.log(f"{_now()} done      {job.name} in {_duration(done.seconds)}")
        elif result.state == "stopped":
            self.stopped.add(job.name)
            self.log(f"{_now()} stopped   {job.name}; the next call resumes it")
        elif result.state == "crashed":  # killed, or out of memory
            self.crashes[job.name] = self.crashes.get(job.name, 0) + 1
            self.folder.fail(job.name, f"the worker process ended with {result.reason}")
            self.log(f"{_now()} crashed   {job.name}: {result.reason}" + ("" if self.failed(job) else "; resuming"))
        else:
            self.failures[job.name] = self.failures.get(job.name, 0) + 1
            self.folder.fail(job.name, result.reason or f"exit status {result.status}")
            again = "" if self.failed(job) else "; retrying without speed-ups"
            self.log(f"{_now()} failed    {job.name}: {self.folder.failure_reason(job.name)}{again}")

    def _release(self) -> None:
        """Release the claims of terminated jobs."""
        for claim in self.claims.values():
            claim.close()
        self.claims.clear()


def find_known_options(
    jobs: Sequence[Job], extra: Options, log: Callable[[str], None]
) -> dict[str, tuple[str, ...]] | None:
    """Return {job name: extra options that its command accepts}; None if there are no extra options.

    Logs which packages do not accept an option. Raises UserError for an option that no command of the plan accepts.
    """
    if not extra:
        return None
    accepted: dict[tuple[str, ...], tuple[str, ...]] = {}
    found: dict[str, tuple[str, ...]] = {}
    with ProcessPool[Job]() as pool:
        for job in jobs:
            head = (str(job.folder), *command_head(job.command))
            if head not in accepted and job.problem is None:
                order = JobSpec(
                    job.name, job.command, str(job.folder), os.devnull, extra=tuple(extra), list_options_only=True
                )
                pool.start(job, run_job, order)
                ((_, result),) = pool.finish()
                if pool.stopping:
                    raise Stopped("stopped")
                if result.state == "crashed":
                    raise UserError("the process that reads the commands' help texts crashed")
                if result.state != "finished":
                    raise UserError(
                        f"{job.name}: {result.reason.splitlines()[-1] if result.reason else 'its option -h fails'}"
                    )
                accepted[head] = result.value.known
            found[job.name] = accepted.get(head, ())
    for name, _ in extra:
        packages = {job.package for job in jobs if job.problem is None}
        unsupported = packages - {job.package for job in jobs if name in found[job.name]}
        if unsupported == packages:
            raise UserError(f"{name}: no command of this plan accepts this option")
        if unsupported:
            log(f"{name} is not an option of the commands of {', '.join(sorted(unsupported))}")
    return found


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lower_priority() -> None:
    """Give every other process on this machine precedence."""
    os.nice(19 - os.nice(0))
    with suppress(OSError):
        os.setsid()  # Linux balances sessions against each other; this keeps the priority of the terminal's session
        with open("/proc/self/autogroup", "w") as file:
            file.write("19")


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
