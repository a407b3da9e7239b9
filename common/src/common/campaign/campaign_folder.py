"""The campaign folder: requests, outputs and states of the jobs.

runs/NAME/           output of the job's command: {out}
jobs/NAME/done       written last: command, options, seconds of all calls, device, commit
jobs/NAME/asked      digest of the options with which the job was started, seconds of the calls that did not finish it
jobs/NAME/failed     reason of the last failure
jobs/NAME/log.txt    printed output of all attempts
jobs/NAME/lock       held by the process that runs the job
plan.json            the jobs of all calls so far
stale/               outputs of jobs that were later requested with different options
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.atomic import write_json, write_text
from common.campaign.plan import NAME, REFERENCE, Job, Options, find_weights
from common.errors import UserError

DONE, FAILED, REQUESTED = "done", "failed", "asked"
# Options that do not affect results: adding or removing them does not invalidate finished jobs.
NEUTRAL_OPTIONS = (
    "--keep-every",
    "--evaluate-every",
    "--graph",
    "--deterministic",
    "--threads",
    "--workers",
    "--device",
)
JOB_KEYS = {"name", "out", "package", "keep", "needs", "tags", "identity"}
LISTS = ("keep", "needs", "tags")
PLAN_COPY = "plan.json"  # for commands that are given the folder only


@dataclass(frozen=True)
class CampaignFolder:
    """Read and write the files of a campaign."""

    root: Path

    def job(self, name: str) -> Path:
        return self.root / "jobs" / name

    def output(self, job: Job) -> Path:
        return self.root / "runs" / job.out

    def log(self, name: str) -> Path:
        return self.job(name) / "log.txt"

    def outputs(self, jobs: Iterable[Job]) -> dict[str, Path]:
        """Return {job name: output folder}."""
        return {job.name: self.output(job).resolve() for job in jobs}

    def record(self, name: str, what: str = DONE) -> dict[str, Any] | None:
        """Read a JSON file of a job; None if it is missing or invalid."""
        try:
            content = json.loads((self.job(name) / what).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def jobs(self) -> list[dict[str, Any]]:
        """Read the jobs of all calls so far, with the keys ``JOB_KEYS``. Raises UserError for a damaged file."""
        if not (self.root / PLAN_COPY).is_file():
            return []
        try:
            content = json.loads((self.root / PLAN_COPY).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.root / PLAN_COPY}: damaged; `run` rewrites it") from error
        jobs = content.get("jobs") if isinstance(content, dict) else None
        if not isinstance(jobs, list) or not all(map(_is_job, jobs)):
            raise UserError(f"{self.root / PLAN_COPY}: damaged; `run` rewrites it")
        return jobs

    def is_done(self, name: str, identity: str) -> bool:
        """Return whether a job was finished with these options."""
        record = self.record(name)
        return record is not None and record.get("identity") == identity

    def has_files(self, name: str, out: str) -> bool:
        """Return whether the files listed in a finished job's record still exist."""
        kept = (self.record(name) or {}).get("kept")
        output = self.root / "runs" / out
        return not isinstance(kept, list) or all((output / str(name)).is_file() for name in kept)

    def kept(self, job: Job) -> list[str]:
        """List the files that match a job's ``keep`` patterns, relative to its output folder."""
        output = self.output(job)
        files = {file for pattern in job.keep for file in output.glob(pattern) if file.is_file()}
        return sorted(file.relative_to(output).as_posix() for file in files)

    def record_request(self, job: Job, identity: str, shared: bool) -> None:
        """Record the requested options of a job, and move an output of different options to ``stale/``.

        shared: Other jobs write to the same output folder, which is therefore not moved.
        """
        before = self.record(job.name, REQUESTED)
        output = self.output(job)
        (self.job(job.name) / FAILED).unlink(missing_ok=True)
        if before is None or before.get("identity") != identity:
            (self.job(job.name) / DONE).unlink(missing_ok=True)
            if output.exists() and not shared:
                self.move_to_stale(output, job.out)
            before = None
        write_json(self.job(job.name) / REQUESTED, {**(before or {}), "identity": identity})

    def move_to_stale(self, output: Path, name: str) -> Path:
        """Move an output to stale/NAME-0, -1, ..."""
        number = 0
        while (place := self.root / "stale" / f"{name}-{number}").exists():
            number += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output, place)
        return place

    def earlier_seconds(self, name: str) -> float:
        """Return the seconds of the calls that did not finish a job."""
        seconds = (self.record(name, REQUESTED) or {}).get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def add_seconds(self, name: str, identity: str, seconds: float) -> None:
        """Add the duration of a call that did not finish a job: stopped, failed or killed."""
        total = round(self.earlier_seconds(name) + seconds, 1)
        write_json(self.job(name) / REQUESTED, {"identity": identity, "seconds": total})

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        (self.job(name) / FAILED).unlink(missing_ok=True)
        write_json(self.job(name) / DONE, {**record, "at": time.strftime("%Y-%m-%d %H:%M:%S")})
        write_json(self.job(name) / REQUESTED, {"identity": record["identity"]})  # another run counts from zero

    def fail(self, name: str, why: str) -> None:
        write_text(self.job(name) / FAILED, f"{why}\n")

    def failure_reason(self, name: str) -> str | None:
        """Return the last line of a failed job's error; None if it has not failed."""
        try:
            lines = (self.job(name) / FAILED).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return None
        return lines[-1] if lines else "no error message"


def _is_job(entry: Any) -> bool:
    """Return whether an entry of ``plan.json`` is one that ``run`` writes."""
    return (
        isinstance(entry, dict)
        and set(entry) >= JOB_KEYS
        and all(isinstance(entry[name], str) and NAME.fullmatch(entry[name]) for name in ("name", "out"))
        and all(isinstance(entry[name], str) for name in ("package", "identity"))
        and all(isinstance(entry[name], list) and all(isinstance(v, str) for v in entry[name]) for name in LISTS)
    )


def identities(
    jobs: Sequence[Job], extra: Options, quick: bool, known: Mapping[str, Iterable[str]] | None = None
) -> dict[str, str]:
    """Compute a digest per job of everything its result depends on: command, options, weights files and dependencies.

    known: {job name: extra options that its command accepts}; default: all of them.
    """
    by_name = {job.name: job for job in jobs}
    found: dict[str, str] = {}

    def identity(name: str) -> str:
        if name not in found:
            job = by_name[name]
            content = {
                "words": job.command,
                "options": job.options,
                "quick": job.quick if quick else (),
                "extra": sorted(
                    (option, values)
                    for option, values in extra
                    if option not in NEUTRAL_OPTIONS and (known is None or option in known.get(name, ()))
                ),
                "weights": [_digest(path) for path in _weights(job)],
                "needs": [identity(need) for need in job.needs],
            }
            text = json.dumps(content, sort_keys=True, default=str)
            found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return found[name]

    return {name: identity(name) for name in by_name}


def _weights(job: Job) -> list[Path]:
    references = [reference.partition(":") for reference in REFERENCE.findall(" ".join(job.command))]
    paths = [find_weights(job.folder, name) for kind, _, name in references if kind == "weights"]
    return [path for path in paths if path is not None]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_campaign_folder(root: Path) -> CampaignFolder:
    """Open an existing campaign folder. Raises UserError if it is not one."""
    if not (root / "jobs").is_dir():
        raise UserError(f"{root}: not a campaign folder; `run` creates one")
    return CampaignFolder(root)
