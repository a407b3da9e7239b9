"""The folder of a campaign: what each job was asked for, what it made, and what became of it.

runs/NAME/           what the job's command writes: {out}
jobs/NAME/done       written last: command, options, seconds, device, commit
jobs/NAME/asked      with which options it was begun
jobs/NAME/failed     why the last try failed
jobs/NAME/log.txt    all that the command printed, try after try
jobs/NAME/lock       held by who is at it
plan.json            the jobs of all calls so far
stale/               outputs of jobs that were asked for with other options
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
from common.campaign.plan import REFERENCE, Job, Options, find_weights
from common.errors import UserError

DONE, FAILED, ASKED = "done", "failed", "asked"
# Options of a call that change no result: what is done stays done without them, and with them.
HOW = ("--keep-every", "--evaluate-every", "--graph", "--deterministic", "--threads", "--workers", "--device")
JOB_KEYS = {"name", "out", "package", "keep", "needs", "tags", "identity"}
PLAN_COPY = "plan.json"  # the jobs of all calls so far, for commands that get the folder only


@dataclass(frozen=True)
class Folder:
    """Where a campaign keeps its files."""

    root: Path

    def job(self, name: str) -> Path:
        return self.root / "jobs" / name

    def output(self, job: Job) -> Path:
        return self.root / "runs" / job.out

    def log(self, name: str) -> Path:
        return self.job(name) / "log.txt"

    def outputs(self, jobs: Iterable[Job]) -> dict[str, Path]:
        """The folder of every job's output, by its name."""
        return {job.name: self.output(job).resolve() for job in jobs}

    def record(self, name: str, what: str = DONE) -> dict[str, Any] | None:
        """The file of this name among a job's, if there is one that can be read."""
        try:
            content = json.loads((self.job(name) / what).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of the calls so far: name, out, package, keep, needs, tags, identity. Raises UserError for a damaged list."""
        if not (self.root / PLAN_COPY).is_file():
            return []
        try:
            content = json.loads((self.root / PLAN_COPY).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.root / PLAN_COPY} is damaged; `run` writes it again") from error
        jobs = content.get("jobs") if isinstance(content, dict) else None
        if not isinstance(jobs, list) or not all(isinstance(job, dict) and set(job) >= JOB_KEYS for job in jobs):
            raise UserError(f"{self.root / PLAN_COPY} is damaged; `run` writes it again")
        return jobs

    def is_done(self, name: str, identity: str) -> bool:
        """Whether a job was finished with these options."""
        record = self.record(name)
        return record is not None and record.get("identity") == identity

    def has_files(self, name: str, out: str) -> bool:
        """Whether the files that a finished job said it keeps are still there."""
        kept = (self.record(name) or {}).get("kept")
        output = self.root / "runs" / out
        return not isinstance(kept, list) or all((output / str(name)).is_file() for name in kept)

    def kept(self, job: Job) -> list[str]:
        """The files that a job keeps, within its output."""
        output = self.output(job)
        files = {file for pattern in job.keep for file in output.glob(pattern) if file.is_file()}
        return sorted(file.relative_to(output).as_posix() for file in files)

    def ask(self, job: Job, identity: str, shared: bool) -> None:
        """Note what a job is asked for; what it left when it was asked for something else is put aside.

        shared: other jobs write to the same output, which stays where it is: their commands know their own.
        """
        before = self.record(job.name, ASKED)
        output = self.output(job)
        (self.job(job.name) / FAILED).unlink(missing_ok=True)
        if before is None or before.get("identity") != identity:
            (self.job(job.name) / DONE).unlink(missing_ok=True)
            if output.exists() and not shared:
                self.put_aside(output, job.out)
        write_json(self.job(job.name) / ASKED, {"identity": identity})

    def put_aside(self, output: Path, name: str) -> Path:
        """Move an output to stale/NAME-0, -1, ...: nothing is lost."""
        number = 0
        while (place := self.root / "stale" / f"{name}-{number}").exists():
            number += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output, place)
        return place

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        (self.job(name) / FAILED).unlink(missing_ok=True)
        write_json(self.job(name) / DONE, {**record, "at": time.strftime("%Y-%m-%d %H:%M:%S")})

    def fail(self, name: str, why: str) -> None:
        write_text(self.job(name) / FAILED, f"{why}\n")

    def why_failed(self, name: str) -> str | None:
        """The last line of what a job that failed said."""
        try:
            lines = (self.job(name) / FAILED).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return None
        return lines[-1] if lines else "it said nothing"


def identities(
    jobs: Sequence[Job], extra: Options, quick: bool, known: Mapping[str, Iterable[str]] | None = None
) -> dict[str, str]:
    """What the result of every job depends on, as a digest: its command, options, weights files, and the jobs it needs.

    known: names of the extra options that each job's command knows; all of them if not given.
    """
    by_name = {job.name: job for job in jobs}
    found: dict[str, str] = {}

    def identity(name: str) -> str:
        if name not in found:
            job = by_name[name]
            content = {
                "words": job.words,
                "options": job.options,
                "quick": job.quick if quick else (),
                "extra": sorted(
                    (option, values)
                    for option, values in extra
                    if option not in HOW and (known is None or option in known.get(name, ()))
                ),
                "weights": [_digest(path) for path in _weights(job)],
                "needs": [identity(need) for need in job.needs],
            }
            text = json.dumps(content, sort_keys=True, default=str)
            found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return found[name]

    return {name: identity(name) for name in by_name}


def _weights(job: Job) -> list[Path]:
    references = [reference.partition(":") for reference in REFERENCE.findall(" ".join(job.words))]
    paths = [find_weights(job.folder, name) for kind, _, name in references if kind == "weights"]
    return [path for path in paths if path is not None]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_folder(root: Path) -> Folder:
    """The folder of a campaign that exists. Raises UserError."""
    if not (root / "jobs").is_dir():
        raise UserError(f"{root} is not the folder of a campaign")
    return Folder(root)
