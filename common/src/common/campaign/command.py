"""What ``python -m common.campaign run|status|collect|merge|tables`` do."""

import time
from collections.abc import Sequence
from pathlib import Path

from common.campaign.estimate import SPEEDS, Estimates, epoch_seconds
from common.campaign.folder import PLAN_COPY, Folder, identities, require_folder
from common.campaign.plan import Job, Options, chosen, read_plan
from common.campaign.settings import Collect, Merge, RunPlan, Status, Tables
from common.errors import UserError
from common.interruption import Stopped


def status(settings: Status) -> None:
    print_status(Path(settings.folder))


def collect(settings: Collect) -> None:
    from common.campaign import collect

    folder = require_folder(Path(settings.folder))
    written, left_out = collect.collect(folder, Path(settings.to), settings.files, settings.mib * 2**20)
    for file in written:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
    for name in left_out:
        print(f"left out, larger than a piece or than what is left: {name}")


def merge(settings: Merge) -> None:
    from common.campaign import collect

    for name in collect.merge([Path(piece) for piece in settings.pieces], Path(settings.into)):
        print(name)


def tables(settings: Tables) -> None:
    from common.campaign.tables import add_results

    for line in add_results(require_folder(Path(settings.folder))):
        print(line)


def split_options(words: Sequence[str]) -> Options:
    """``--epochs 1 --amp`` as (("--epochs", ("1",)), ("--amp", ())). Raises UserError for a word that belongs to no option."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word.partition("=")
            found.append((name, (value,) if equals else ()))
        elif not found:
            raise UserError(f"{word!r} belongs to no option")
        else:
            found[-1] = (found[-1][0], (*found[-1][1], word))
    return tuple(found)


def run(settings: RunPlan, rest: Sequence[str]) -> None:
    """rest: options that go to the commands that know them."""
    extra = split_options(rest)
    jobs = chosen(read_plan(settings.plan), settings.only)
    if not jobs:
        raise UserError(f"{settings.plan} has no jobs")
    from common.campaign.run import Runner, known_options

    folder = Folder(Path(settings.out))
    names = identities(jobs, extra, settings.quick, known_options(jobs, extra, _print))
    estimates = Estimates(
        folder.root / SPEEDS,
        "cuda" if str(settings.device).startswith("cuda") else "cpu",
        options=extra,
        quick=settings.quick,
    )
    if settings.dry_run:
        print(plan_text(jobs, folder, names, estimates))
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
    failed = [job.name for job in jobs if not folder.is_done(job.name, names[job.name]) and _why(job, folder)]
    left = [job.name for job in jobs if not folder.is_done(job.name, names[job.name])]
    if left and (runner.stopping or runner.stopped):
        raise Stopped(f"{len(left)} of {len(jobs)} jobs are left")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}; their logs are in {folder.root}/jobs"
        )
    if left:
        raise UserError(f"{len(left)} of {len(jobs)} jobs wait for others that failed")


def write_plan(folder: Folder, jobs: Sequence[Job], names: dict[str, str]) -> None:
    """What this campaign is about, for the commands that get its folder only; jobs of earlier calls stay."""
    from common.atomic import write_json

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
    except UserError:  # it is written again
        before = []
    write_json(folder.root / PLAN_COPY, {"jobs": [*(job for job in before if job["name"] not in own), *content]})


def plan_text(jobs: Sequence[Job], folder: Folder, names: dict[str, str], estimates: Estimates) -> str:
    """Jobs in the order of their priority with needs and estimated hours here and on an H100, and the sums of the tags."""
    from common.markdown import markdown_table, pad_table

    card = Estimates(folder.root / "no file", "cuda", options=estimates.options, quick=estimates.quick)
    rows: list[list[str]] = []
    sums: dict[str, list[float]] = {}
    for job in sorted(jobs, key=lambda job: -job.priority):
        done = folder.is_done(job.name, names[job.name])
        here, there = estimates.seconds_left(job, folder.output(job)), card.seconds(job)
        state = "done" if done else job.problem or ""
        rows.append([job.name, ", ".join(job.needs), " ".join(job.tags), _hours(here), _hours(there), state])
        for tag in (*job.tags, "all"):
            both = sums.setdefault(tag, [0.0, 0.0, 0])
            if not done:
                both[0] += here or 0.0
                both[1] += there or 0.0
                both[2] += (here is None) + (there is None)
    text = pad_table(markdown_table(["job", "needs", "tags", "hours here", "hours, H100", "state"], rows))
    lines = [
        f"{tag}: {_hours(here)} hours here, {_hours(there)} on an H100 for what is left"
        + (f" ({unknown} estimates are unknown)" if unknown else "")
        for tag, (here, there, unknown) in sums.items()
    ]
    return text + "\n" + "\n".join(lines)


def print_status(root: Path) -> None:
    """A line for each job of all calls so far: its state, epochs, seconds per epoch."""
    from common.markdown import markdown_table, pad_table

    folder = require_folder(root)
    rows = []
    for job in folder.jobs():
        state, about = _state(folder, job)
        seconds = epoch_seconds(root / "runs" / job["out"])
        per_epoch = f"{sum(seconds) / len(seconds):.1f}" if seconds else ""
        rows.append([job["name"], state, str(len(seconds) or ""), per_epoch, about])
    print(pad_table(markdown_table(["job", "state", "epochs", "s per epoch", ""], rows)), end="")


def _state(folder: Folder, job: dict) -> tuple[str, str]:
    from common.executor import claim_file

    name = job["name"]
    if folder.is_done(name, job["identity"]):
        record = folder.record(name) or {}
        seconds = record.get("seconds")
        hours = f"{seconds / 3600:.2f} h, " if isinstance(seconds, int | float) else ""
        missing = "" if folder.has_files(name, job["out"]) else "; its files are missing"
        return "done", f"{hours}{record.get('device', '')}{missing}"
    place = folder.job(name)
    if (place / "lock").exists():
        with claim_file(place / "lock") as free:
            if not free:
                return "running", ""
    why = folder.why_failed(name)
    if why is not None:
        return "failed", why[:100]
    return ("unfinished", "") if folder.log(name).is_file() else ("waiting", ", ".join(job["needs"]))


def summary(jobs: Sequence[Job], folder: Folder, names: dict[str, str]) -> str:
    """A line for each paper: how many of its jobs are done, and what became of the others."""
    lines = []
    for package in dict.fromkeys(job.package for job in jobs):
        own = [job for job in jobs if job.package == package]
        done = [job for job in own if folder.is_done(job.name, names[job.name])]
        rest = [job for job in own if job not in done]
        failed = [f"{job.name}: {why}" for job in rest if (why := _why(job, folder))]
        waiting = [job.name for job in rest if not _why(job, folder)]
        line = f"{package}: {len(done)} of {len(own)} jobs done"
        line += f"; left: {', '.join(waiting)}" if waiting else ""
        line += f"; failed: {'; '.join(failed)}" if failed else ""
        lines.append(line)
    return "\n".join(lines)


def _why(job: Job, folder: Folder) -> str | None:
    return job.problem or folder.why_failed(job.name)


def _hours(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 3600:.2f}"


def _print(line: str) -> None:
    print(line, flush=True)
