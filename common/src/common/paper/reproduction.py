"""Generate docs/reproduction.md: ``python -m common.paper.reproduction [--check]``.

One row per package, data set and network of the plans (``<package>/plan.toml``) and of ``docs/reproduction.toml``. The status is
determined from the result files, the epochs that they record, and the tests; the hours are the campaign's estimates.
"""

import itertools
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common.campaign.estimate import Estimates
from common.campaign.plan import REFERENCE, Job, read_plan
from common.markdown import markdown_table
from common.reporting import results
from common.runs import read_json

ROOT = Path(__file__).resolve().parents[4]
PAGE, ADDITIONS = ROOT / "docs" / "reproduction.md", ROOT / "docs" / "reproduction.toml"
FULL, NOT_RUN, SMALL = "in full", "not run", "on small data"


@dataclass(frozen=True)
class Row:
    """Runs of one network: what is published, how to run it, what has been run.

    Attributes:
        commands: One per run.
        found: Per run, the largest number of epochs (or images) among its result files (inf if none is recorded), or None.
        epochs: Epochs of a complete run, or None.
        images: Calibration images of a complete run, which are counted instead of epochs; or None.
        tested: Whether a test runs the command on small data.
        cpu, gpu: Estimated hours of all runs, or None.
    """

    package: str
    dataset: str
    network: str
    published: str
    commands: tuple[tuple[str, ...], ...]
    found: tuple[float | None, ...]
    epochs: float | None
    tested: bool
    cpu: float | None
    gpu: float | None
    images: int | None = None

    @property
    def status(self) -> str:
        """Describe what has been run."""
        done = [epochs for epochs in self.found if epochs is not None]
        if not done:
            return SMALL if self.tested else NOT_RUN
        full, unit = (self.images, "calibration images") if self.images else (self.epochs, "epochs")
        complete = [count for count in done if full is None or count >= full]
        if not complete:
            runs = "" if len(done) == len(self.found) else f", {len(done)} of {len(self.found)} runs"
            return f"shortened: {max(done):,.0f} of {full:,.0f} {unit}{runs}"
        return FULL if len(complete) == len(self.found) else f"{FULL}: {len(complete)} of {len(self.found)} runs"


def read_rows(root: Path = ROOT) -> list[Row]:
    """Read the plans, the additions and the result files of a checkout."""
    more = tomllib.loads((root / "docs" / ADDITIONS.name).read_text(encoding="utf-8"))
    rows = [_row_of_command(root, entry) for entry in more["command"]]
    for plan in sorted(root.glob("*/plan.toml")):
        jobs = [job for job in read_plan(plan) if not job.name.startswith("dense")]
        rows += [_row_of_job(root, job, _additions(job, more["jobs"])) for job in jobs]
    key = lambda row: (row.package, row.dataset, row.network, row.published)  # noqa: E731
    return [_merge(list(group)) for _, group in itertools.groupby(sorted(rows, key=key), key)]


def _additions(job: Job, entries: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the additions to a job; a later entry overrides an earlier one."""
    found: dict[str, str] = {}
    for entry in entries:
        found |= entry if fnmatch(job.name, entry["jobs"]) else {}
    return found


def _row_of_job(root: Path, job: Job, more: Mapping[str, str]) -> Row:
    options = _options(job.command)
    last = job.name.rpartition("/")[2]
    network = (
        more.get("network")
        or options.get("arch")
        or options.get("model", "").rpartition(":")[2]
        or re.split(r"[-.]", last)[0]
    )
    weights = next(
        (r.partition(":")[2] for r in REFERENCE.findall(" ".join(job.command)) if r.startswith("weights:")), ""
    )
    network += "-conv3x3" if weights == f"{network}-conv3x3" else ""
    data = next(
        (r.partition(":")[2] for r in REFERENCE.findall(" ".join(job.command)) if r.startswith("data:")), "digits"
    )
    dataset = options.get("dataset", data)
    patterns = [f"run-{last}.json", f"run-{last}-*.json"]
    if "results" in more:
        patterns = [re.sub(r"\{([\w-]+)\}", lambda match: options[match[1]], more["results"])]
    estimates = [Estimates(Path("none"), kind).seconds(job) for kind in ("cpu", "cuda")]
    cpu, gpu = (None if seconds is None else seconds / 3600 for seconds in estimates)
    scripts = [f"run_{tag}.sh" for tag in job.tags]
    tested = _has_test(root, more.get("test")) or _runs_in_tests(root / job.package / "tests", scripts)
    epochs = next((float(options[name]) for name in ("epochs", "finetune-epochs") if name in options), job.epochs)
    images = int(more["images"]) if "images" in more else None
    counted = "images" if images else "epochs"
    found = _largest_in_results(root / job.package / "results", patterns, dataset, counted=counted)
    command = tuple(REFERENCE.sub(lambda match: _path(match[1]), word) for word in _without_outputs(job.command))
    published = more.get("published", "")
    return Row(job.package, dataset, network, published, (command,), (found,), epochs, tested, cpu, gpu, images)


def _row_of_command(root: Path, entry: Mapping[str, Any]) -> Row:
    package, dataset, epochs = entry["package"], entry["dataset"], entry.get("epochs")
    found = _largest_in_results(root / package / "results", [entry["results"]], dataset, entry.get("contains", ""))
    command = tuple(entry["run"].split())
    tested = _has_test(root, entry.get("test"))
    return Row(
        package,
        dataset,
        entry["network"],
        entry["published"],
        (command,),
        (found,),
        epochs,
        tested,
        entry.get("hours"),
        None,
    )


def _merge(rows: Sequence[Row]) -> Row:
    """Merge the runs of one network."""
    cpu, gpu = ([row.cpu for row in rows], [row.gpu for row in rows])
    return replace(
        rows[0],
        commands=tuple(command for row in rows for command in row.commands),
        found=tuple(epochs for row in rows for epochs in row.found),
        tested=all(row.tested for row in rows),
        cpu=None if None in cpu else sum(hours or 0.0 for hours in cpu),
        gpu=None if None in gpu else sum(hours or 0.0 for hours in gpu),
    )


def _options(command: Sequence[str]) -> dict[str, str]:
    """Return {option: first value} of a command."""
    return {word[2:]: value for word, value in itertools.pairwise(command) if word.startswith("--")}


def _without_outputs(command: Sequence[str]) -> list[str]:
    """Leave out options for output folders, which differ between campaigns."""
    outputs = {i for i, word in enumerate(command) if "{out}" in word}
    return [word for i, word in enumerate(command) if i not in outputs and i + 1 not in outputs]


def _path(reference: str) -> str:
    """Return what a reference of a plan usually stands for."""
    kind, _, name = reference.partition(":")
    return {"data": f"data/{name}", "weights": f"data/weights/{name}.safetensors"}.get(kind, f"runs/{reference}")


def _largest_in_results(
    folder: Path, patterns: Iterable[str], dataset: str, contains: str = "", counted: str = "epochs"
) -> float | None:
    """Return the largest ``counted`` value among matching result files of a data set; inf if not recorded, None if no file."""
    found: list[float] = []
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        content = read_json(file)
        if content.get("dataset", dataset) == dataset and contains in file.read_text(encoding="utf-8"):
            found.append(float(content.get(counted) or "inf"))
    return max(found, default=None)


def _has_test(root: Path, test: str | None) -> bool:
    """Return whether a test FILE::FUNCTION exists."""
    file, _, name = (test or "").partition("::")
    return bool(name) and (root / file).is_file() and f"def {name}(" in (root / file).read_text(encoding="utf-8")


def _runs_in_tests(tests: Path, scripts: Iterable[str]) -> bool:
    """Return whether a test of the package runs one of its campaign scripts on small data."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(tests.glob("test_*_scripts.py"))]
    return any(f'"{script}"' in text and "check_script_runs_plan(" in text for script in scripts for text in texts)


def join_commands(commands: Iterable[Sequence[str]]) -> str:
    """Join commands as Markdown: {a,b} stands for one run with each value; commands of different options follow one another."""
    groups: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for command in commands:
        groups.setdefault(tuple(word for word in command if word.startswith("--") or word == command[1]), []).append(
            command
        )
    return ", ".join(f"`{' '.join(map(_join_values, zip(*group, strict=True)))}`" for group in groups.values())


def _join_values(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else f"{{{','.join(different)}}}"


def table(rows: Sequence[Row]) -> str:
    """Format the table of the page."""
    header = ["package", "data set", "network", "published in", "status", "hours, CPU core", "hours, H100", "command"]
    hours = lambda value: "" if value is None else f"{value:.3g}"  # noqa: E731
    lines = [
        [
            row.package,
            row.dataset,
            row.network,
            row.published,
            row.status,
            hours(row.cpu),
            hours(row.gpu),
            join_commands(row.commands),
        ]
        for row in rows
    ]
    return markdown_table(header, lines)


TABLES = {"reproduction": lambda: table(read_rows())}


def main(argv: Sequence[str] | None = None) -> int:
    """Regenerate the page and return an exit status."""
    words = sys.argv[1:] if argv is None else argv
    return results.main([str(PAGE), "--tables", "common.paper.reproduction", *words])


if __name__ == "__main__":
    sys.exit(main())
