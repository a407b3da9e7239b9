"""The commands ``python -m common.campaign run|status|collect|merge|tables``."""

import time
from collections.abc import Sequence
from pathlib import Path

from common.campaign.campaign_folder import PLAN_COPY, CampaignFolder, identities, open_campaign_folder
from common.campaign.estimate import SPEEDS, Estimates, epoch_seconds
from common.campaign.job_states import job_state
from common.campaign.plan import Job, Options, read_plan, select_jobs
from common.campaign.settings import Collect, Merge, RunPlan, Status, Tables
from common.errors import UserError
from common.interruption import Stopped


def status(settings: Status) -> None:
    """Print the states of all jobs."""
    print_status(Path(settings.folder))


def collect(settings: Collect) -> None:
    """Pack a campaign into pieces and print them."""
    from common.campaign import collect

    folder = open_campaign_folder(Path(settings.folder))
    written, left_out = collect.collect(folder, Path(settings.to), settings.files, settings.mib * 2**20)
    for file in written:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
    for name in left_out:
        print(f"left out, does not fit: {name}")


def merge(settings: Merge) -> None:
    """Unpack pieces and print the names of the added jobs."""
    from common.campaign import collect

    for name in collect.merge([Path(piece) for piece in settings.pieces], Path(settings.into)):
        print(name)


def tables(settings: Tables) -> None:
    """Add finished runs to the packages' results."""
    from common.campaign.tables import add_results

    for line in add_results(open_campaign_folder(Path(settings.folder))):
        print(line)


def parse_extra_options(words: Sequence[str]) -> Options:
    """Parse ``--epochs 1 --amp`` to (("--epochs", ("1",)), ("--amp", ())). Raises UserError for a value without an option."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word.partition("=")
            found.append((name, (value,) if equals else ()))
        elif not found:
            raise UserError(f"unexpected argument {word!r}: it does not follow an option")
        else:
            found[-1] = (found[-1][0], (*found[-1][1], word))
    return tuple(found)


def run(settings: RunPlan, rest: Sequence[str]) -> None:
    """Run a plan. rest: options for the commands that accept them."""
    extra = parse_extra_options(rest)
    jobs = select_jobs(read_plan(settings.plan), settings.only)
    if not jobs:
        raise UserError(f"{settings.plan}: the plan has no jobs")
    from common.campaign.run import Runner, find_known_options

    folder = CampaignFolder(Path(settings.out))
    names = identities(jobs, extra, settings.quick, find_known_options(jobs, extra, _print))
    estimates = Estimates(
        folder.root / SPEEDS,
        "cuda" if str(settings.device).startswith("cuda") else "cpu",
        options=extra,
        quick=settings.quick,
    )
    if settings.dry_run:
        print(format_plan(jobs, folder, names, estimates))
        return
    deadline = None if settings.minutes is None else time.time() + 60 * settings.minutes
    runner = Runner(
        jobs,
        names,
        folder,
        estimates,
        extra,
        settings.device,
        settings.quick,
        settings.jobs,
        deadline,
        settings.nice,
        _print,
        lambda: write_plan(folder, jobs, names),
    )
    runner.run()
    _print(summary(jobs, folder, names))
    for job in jobs:
        if job.problem:
            folder.fail(job.name, job.problem)
    failed = [job.name for job in jobs if not folder.is_done(job.name, names[job.name]) and _failure(job, folder)]
    left = [job.name for job in jobs if not folder.is_done(job.name, names[job.name])]
    if left and (runner.stopping or runner.stopped):
        raise Stopped(f"{len(left)} of {len(jobs)} jobs are unfinished")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}; see the logs in {folder.root}/jobs"
        )
    if left:
        raise UserError(f"{len(left)} of {len(jobs)} jobs depend on failed jobs")


def write_plan(folder: CampaignFolder, jobs: Sequence[Job], names: dict[str, str]) -> None:
    """Write the jobs to ``plan.json``, for the commands that are given the folder only; keep jobs of earlier calls."""
    from common.atomic import write_json
    from common.locks import lock_folder

    folder.root.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder.root)  # another command may add its jobs at the same time
    content = [
        {
            "name": j.name,
            "out": j.out,
            "package": j.package,
            "keep": list(j.keep),
            "needs": list(j.needs),
            "tags": list(j.tags),
            "identity": names[j.name],
        }
        for j in jobs
    ]
    own = {job.name for job in jobs}
    try:
        before = folder.jobs()
    except UserError:  # damaged; rewritten below
        before = []
    write_json(folder.root / PLAN_COPY, {"jobs": [*(job for job in before if job["name"] not in own), *content]})
    del lock


def format_plan(jobs: Sequence[Job], folder: CampaignFolder, names: dict[str, str], estimates: Estimates) -> str:
    """Format a table of jobs by priority, with dependencies and estimated hours here and on an H100, and the sums per tag."""
    from common.markdown import markdown_table, pad_table

    card = Estimates(folder.root / "no file", "cuda", options=estimates.options, quick=estimates.quick)
    rows: list[list[str]] = []
    sums: dict[str, list[float]] = {}
    for job in sorted(jobs, key=lambda job: -job.priority):
        done = folder.is_done(job.name, names[job.name])
        here, there = estimates.remaining_seconds(job, folder.output(job)), card.seconds(job)
        state = "done" if done else job.problem or ""
        rows.append([job.name, ", ".join(job.needs), " ".join(job.tags), _hours(here), _hours(there), state])
        for tag in (*job.tags, "all"):
            both = sums.setdefault(tag, [0.0, 0.0, 0])
            if not done:
                both[0] += here or 0.0
                both[1] += there or 0.0
                both[2] += (here is None) + (there is None)
    text = pad_table(markdown_table(["job", "needs", "tags", "hours (here)", "hours (H100)", "state"], rows))
    lines = [
        f"{tag}: {_hours(here)} hours remaining here, {_hours(there)} on an H100"
        + (f" (without {unknown} unknown estimates)" if unknown else "")
        for tag, (here, there, unknown) in sums.items()
    ]
    return text + "\n" + "\n".join(lines)


def print_status(root: Path) -> None:
    """Print a table of the jobs of all calls so far: state, epochs, seconds per epoch."""
    from common.markdown import markdown_table, pad_table

    folder = open_campaign_folder(root)
    rows = []
    for job in folder.jobs():
        state, about = job_state(folder, job)
        seconds = epoch_seconds(root / "runs" / job["out"])
        per_epoch = f"{sum(seconds) / len(seconds):.1f}" if seconds else ""
        rows.append([job["name"], state, str(len(seconds) or ""), per_epoch, about])
    print(pad_table(markdown_table(["job", "state", "epochs", "s per epoch", ""], rows)), end="")


def summary(jobs: Sequence[Job], folder: CampaignFolder, names: dict[str, str]) -> str:
    """Return a line per package: the number of finished jobs, and the unfinished and failed ones."""
    lines = []
    for package in dict.fromkeys(job.package for job in jobs):
        own = [job for job in jobs if job.package == package]
        done = [job for job in own if folder.is_done(job.name, names[job.name])]
        rest = [job for job in own if job not in done]
        failed = [f"{job.name}: {why}" for job in rest if (why := _failure(job, folder))]
        waiting = [job.name for job in rest if not _failure(job, folder)]
        line = f"{package}: {len(done)} of {len(own)} jobs done"
        line += f"; unfinished: {', '.join(waiting)}" if waiting else ""
        line += f"; failed: {'; '.join(failed)}" if failed else ""
        lines.append(line)
    return "\n".join(lines)


def _failure(job: Job, folder: CampaignFolder) -> str | None:
    return job.problem or folder.failure_reason(job.name)


def _hours(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 3600:.2f}"


def _print(line: str) -> None:
    print(line, flush=True)
