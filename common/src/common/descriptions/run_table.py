"""Find the runs below a folder, with their states and results."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from common.descriptions.description import Number, natural_key, ratio
from common.descriptions.readers import describe_registered
from common.descriptions.records import FINISHED, read_log
from common.descriptions.run_records import Record, command_of, number, table, text
from common.errors import UserError, one_line
from common.locks import LOCK, is_locked
from common.runs import CONFIG, DECISION, LOG, METRICS, PROGRESS, STATE, read_json

RUNS_LIMIT = 100_000
RECORD_LIMIT = 16 * 2**20  # bytes of a record that is read in search of a state
RUNNING, RESUMES, STARTS_AGAIN, DAMAGED = "running", "unfinished: resumes", "unfinished: starts again", "damaged"
RECORDS = (".json", ".txt")


@dataclass(frozen=True)
class Run:
    """A run below a folder.

    Attributes:
        run: Path of its folder, or of its record in a folder of results.
        status: "finished", "running", "unfinished: ...", "failed", "unreachable" or "damaged".
        reason: Reason of the last three.
        top1_dense, top1: Percent, of the dense and of the compressed network.
        macs, bytes: Fraction of the dense network's.
        seconds: Duration.
    """

    run: str
    status: str
    reason: str = ""
    package: str = ""
    method: str = ""
    network: str = ""
    dataset: str = ""
    seed: Number | None = None
    top1_dense: Number | None = None
    top1: Number | None = None
    agreement: Number | None = None
    macs: float | None = None
    bytes: float | None = None
    seconds: Number | None = None
    epochs: int | None = None
    device: str = ""
    command: str = ""

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(Run))
LARGEST_FIRST = ("top1_dense", "top1", "agreement")


def find_runs(root: Path) -> list[Run]:
    """Return the runs below a folder, sorted by path. Raises UserError if it does not exist or has too many folders."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    jobs = _campaign_jobs(root)
    found: list[Run] = []

    def unreadable(error: OSError) -> None:
        name = Path(str(error.filename)).relative_to(root).as_posix()
        found.append(Run(name, DAMAGED, one_line(error.strerror)))

    for seen, (place, folders, files) in enumerate(os.walk(root, onerror=unreadable)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if seen >= RUNS_LIMIT:
            raise UserError(f"{root}: contains more than {RUNS_LIMIT:,} folders; give one of its folders")
        found += [_with_job(run, Path(place), jobs) for run in _runs_in(root, Path(place), sorted(files))]
    found += [
        _unstarted(root, job)
        for job in jobs.values()
        if not any(_is_inside(root / run.run, job.output) for run in found)
    ]
    return _with_commands_above(sorted(found, key=lambda run: natural_key(run.run)))


def _with_commands_above(runs: Sequence[Run]) -> list[Run]:
    """Give the stages of a run, in folders below it, its command."""
    commands = {run.run: run.command for run in runs if run.command}
    found = []
    for run in runs:
        above = [parent.as_posix() for parent in Path(run.run).parents]
        found.append(
            replace(run, command=run.command or next((commands[name] for name in above if name in commands), ""))
        )
    return found


def sort_runs(runs: Sequence[Run], column: str, reverse: bool = False) -> list[Run]:
    """Sort runs by a column: accuracies with the largest first; runs without a value last."""
    known = [run for run in runs if getattr(run, column) not in (None, "")]
    rest = [run for run in runs if getattr(run, column) in (None, "")]

    def key(run: Run) -> Any:
        value = getattr(run, column)
        return natural_key(value) if isinstance(value, str) else value

    return sorted(known, key=key, reverse=reverse != (column in LARGEST_FIRST)) + rest


def _runs_in(root: Path, folder: Path, files: Sequence[str]) -> Iterator[Run]:
    """Yield the run of a folder or, in a folder of results, a run per record."""
    name = folder.relative_to(root).as_posix()
    if CONFIG in files or METRICS in files:
        run = _run(name, folder, files)
        if run is not None:
            yield run
        return
    recorded = _recorded_state(folder, files)
    if recorded is not None:
        yield Run(name, *recorded)
        return
    for file in files:
        if file.endswith(".json") and (record := _result(folder / file)):
            yield _with_results(Run(file if name == "." else f"{name}/{file}", FINISHED), record, record)


def _run(name: str, folder: Path, files: Sequence[str]) -> Run | None:
    """Describe a run folder; None for files of these names that are no records of a run."""
    try:
        config = _record(folder / CONFIG) if CONFIG in files else {}
        metrics = _record(folder / METRICS) if METRICS in files else {}
    except (UserError, OSError) as error:
        return Run(name, DAMAGED, one_line(error))
    if not isinstance(config.get("options"), dict) and "schema" not in metrics:
        return None
    run = Run(name, "")
    seconds, epochs = None, None
    if LOG in files:
        try:
            rows = read_log(folder / LOG)
            seconds = sum(row.get("seconds", 0) for row in rows)
            epochs = len(rows)
        except (UserError, OSError) as error:
            run = replace(run, status=DAMAGED, reason=one_line(error))
    run = _with_results(replace(run, seconds=seconds, epochs=epochs), config, metrics)
    if run.status:
        return run
    if "schema" in metrics:
        return replace(run, status=FINISHED)
    status, reason = _unfinished(folder, files)
    return replace(run, status=status, reason=reason)


def _unfinished(folder: Path, files: Sequence[str]) -> tuple[str, str]:
    """Return the state of a run without metrics, and its reason."""
    if is_locked(folder) or is_locked(folder / LOCK):
        return RUNNING, ""
    recorded = _recorded_state(folder, files)
    if recorded is not None:
        return recorded
    return (RESUMES if set(files) - {CONFIG, LOCK} else STARTS_AGAIN), ""


def _recorded_state(folder: Path, files: Sequence[str]) -> tuple[str, str] | None:
    """Return (state, reason) according to a package's own record in the folder; None if there is none."""
    for file in files:
        path = folder / file
        if file in (CONFIG, METRICS, DECISION, STATE, PROGRESS) or not file.endswith(RECORDS) or not path.is_file():
            continue
        try:
            content = read_json(path, RECORD_LIMIT) if file.endswith(".json") else None
            found = describe_registered(path, content)
        except (UserError, OSError):
            continue
        if found is not None and found.status:
            status, _, reason = found.status.partition(": ")
            return (found.status, "") if status == "unfinished" else (status, one_line(reason))
    return None


def _record(path: Path) -> Record:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a table of names and values")
    return content


def _result(path: Path) -> Record:
    """Return a run's record that was copied to a folder of results; an empty one for other files."""
    try:
        content = read_json(path, RECORD_LIMIT)
    except (UserError, OSError):
        return {}
    return (
        content
        if isinstance(content, dict) and content.get("schema") == 1 and isinstance(content.get("package"), str)
        else {}
    )


def _with_results(run: Run, config: Record, metrics: Record) -> Run:
    options, dense, small = (
        table(config.get("options")),
        table(metrics.get("baseline")),
        table(metrics.get("compressed")),
    )
    targets = table(metrics.get("targets")) or table(options.get("targets"))
    axes = [f"{axis} {value:g}" for axis, value in targets.items() if number(value) is not None]
    method = text(metrics.get("label")) or text(metrics.get("method")) or text(options.get("method")) or ""
    chain = options.get("chain")
    method = method or (" + ".join(map(str, chain)) if isinstance(chain, list) else "")
    return replace(
        run,
        package=text(metrics.get("package")) or text(config.get("package")) or "",
        method=", ".join([method, *axes]) if method else "",
        network=text(metrics.get("arch")) or text(options.get("arch")) or text(options.get("model")) or "",
        dataset=text(metrics.get("dataset")) or text(options.get("dataset")) or "",
        seed=number(metrics.get("seed")) if number(metrics.get("seed")) is not None else number(options.get("seed")),
        top1_dense=number(dense.get("top1")),
        top1=number(small.get("top1")),
        agreement=number(small.get("agreement")),
        macs=ratio(number(small.get("macs")), number(dense.get("macs"))),
        bytes=ratio(number(small.get("bytes")), number(dense.get("bytes"))),
        seconds=number(metrics.get("seconds")) if number(metrics.get("seconds")) is not None else run.seconds,
        device=text(metrics.get("device")) or text(table(config.get("environment")).get("device")) or "",
        command=command_of(config, metrics),
    )


@dataclass(frozen=True)
class _Job:
    name: str
    output: Path
    state: str
    reason: str
    command: str
    seconds: Number | None


def _campaign_jobs(root: Path) -> dict[str, _Job]:
    """Return the jobs of a campaign folder by name; none for another folder, or for a damaged list of jobs."""
    if not (root / "jobs").is_dir():
        return {}
    from common.campaign.campaign_folder import CampaignFolder
    from common.campaign.job_states import job_state

    folder = CampaignFolder(root)
    try:
        jobs = folder.jobs()
        states = {job["name"]: job_state(folder, job) for job in jobs}
    except (UserError, TypeError, ValueError, OSError):
        return {}
    found = {}
    for job in jobs:
        record = folder.record(job["name"]) or {}
        output, (state, about) = root / "runs" / str(job["out"]), states[job["name"]]
        found[job["name"]] = _Job(
            job["name"], output, state, about, text(record.get("command")) or "", number(record.get("seconds"))
        )
    return found


def _with_job(run: Run, folder: Path, jobs: Mapping[str, _Job]) -> Run:
    """Add the command and a failure of the campaign's job that wrote a run."""
    job = next((job for job in jobs.values() if _is_inside(folder, job.output)), None)
    if job is None:
        return run
    run = replace(run, command=run.command or job.command)
    if job.state == "failed" and run.status in (RESUMES, STARTS_AGAIN):
        return replace(run, status="failed", reason=one_line(job.reason))
    return run


def _unstarted(root: Path, job: _Job) -> Run:
    """Describe a job without a run: its state is that of the campaign."""
    status = {"done": FINISHED, "unfinished": RESUMES}.get(job.state, job.state)
    reason = job.reason if status != FINISHED else ""
    name = job.output.relative_to(root).as_posix() if job.output.is_relative_to(root) else job.name
    return Run(name, status, one_line(reason), seconds=job.seconds, command=job.command)


def _is_inside(folder: Path, other: Path) -> bool:
    return folder == other or other in folder.parents
