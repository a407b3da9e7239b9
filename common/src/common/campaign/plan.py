"""Plans: lists of jobs in TOML.

    include = ["../decore/plan.toml"]              # other plans; their jobs keep their own options
    only = ["cifar10"]                             # included jobs with one of these tags, and their dependencies
    [defaults]                                     # options for every command that accepts them
    dataset = "cifar10"
    [quick]                                        # options added by --quick
    epochs = 1
    [[job]]
    name = "graph/vgg16-{threshold}"               # one job per grid value
    run = "python prune_cifar10.py --pretrained {weights:vgg16} --threshold {threshold} --saved-dir {out}"
    each = { threshold = [0.8, 0.75] }             # the grid
    needs = ["dense/vgg16"]                        # {dense/vgg16} is the output folder of that job
    priority = 50                                  # highest first
    tags = ["tier-b"]
    keep = ["vgg16-*/model.safetensors"]           # files that `collect` packs, weights as float16
    epochs = 90                                    # for the time estimate, if the command does not set them
    hours = 0.5                                    # for the time estimate, if epochs do not determine it
    quick = { images = 200 }                       # options added by --quick to this job
    alone = true                                   # run no other job at the same time: this job measures time

A command runs in the folder of its plan. ``{out}`` is the job's output folder. ``{data:NAME}`` and ``{weights:ARCH}`` are the
first existing path in :data:`DATA` and :data:`WEIGHTS`, before that in $COMPRESSION_PAPERS_DATA instead of ``data``; for ARCH-conv3x3 also ``cifar10/pre-train/ARCH-weights.pth``, the authors'
file of such a network. Missing weights are trained by the job ``dense/ARCH`` of the plan or,
if it has none, of ``dense.toml`` next to this module.
"""

import itertools
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.downloads import DATA_FOLDER, advise_weights
from common.errors import UserError

DATA = ("data/{}", "{}/dataset", "../data/{}")
WEIGHTS = (
    "data/weights/{}.safetensors",
    "data/weights/{}-*.th",
    "data/weights/{}-*.pth",
    "data/weights/{}.pth",
    "cifar10/pre-train/{}-weights.pth",
    "imagenet/pre-train/{}-weights.pth",
    "../data/weights/{}.safetensors",
    "../data/weights/{}-*.th",
    "../data/weights/{}-*.pth",
    "weights/{}.safetensors",
    "../weights/{}.safetensors",
)
CONV, AUTHORS_FILE = "-conv3x3", "cifar10/pre-train/{}-weights.pth"
WEIGHTS_FOLDER = "WEIGHTS"  # environment variable: a folder that replaces the paths above
NAME = re.compile(r"[A-Za-z0-9][\w.=-]*(?:/[A-Za-z0-9][\w.=-]*)*")
REFERENCE = re.compile(r"\{([^{}]+)\}")
KEYS = {"name", "run", "each", "needs", "priority", "tags", "keep", "hours", "epochs", "out", "quick", "alone"}
TYPES: dict[str, tuple[Any, str]] = {
    "each": (dict, "a table of lists"),
    "quick": (dict, "a table of options"),
    **{name: (list, "a list of strings") for name in ("needs", "tags", "keep")},
    **{name: (int | float, "a number") for name in ("priority", "hours", "epochs")},
    "out": (str, "a string"),
    "alone": (bool, "true or false"),
}
JOBS_LIMIT = 10_000
Options = Sequence[tuple[str, tuple[str, ...]]]  # (("--epochs", ("1",)), ("--amp", ()))
DENSE = Path(__file__).parent / "dense.toml"


@dataclass(frozen=True)
class Job:
    """One command of a plan.

    Attributes:
        command: The arguments, beginning with ``python``, with unresolved references such as ``{out}``.
        folder: Working directory: the folder of the plan.
        out: Name of the output folder.
        options: Defaults of the plan, for commands that accept them.
        quick: Options added by ``--quick``.
        problem: Reason why the job cannot run, or None.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    out: str
    needs: tuple[str, ...] = ()
    priority: float = 0.0
    tags: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    hours: float | None = None
    epochs: float | None = None
    options: Options = ()
    quick: Options = ()
    alone: bool = False
    problem: str | None = None

    @property
    def package(self) -> str:
        """Name of the plan's folder."""
        return self.folder.name


def read_plan(path: Path | str) -> list[Job]:
    """Read all jobs of a plan and its included plans, in order. Raises UserError for an invalid plan."""
    jobs = _add_dense_jobs(_read(Path(path).resolve(), ()))
    names = [job.name for job in jobs]
    known = set(names)
    if len(known) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: duplicate job name {twice!r}")
    for job in jobs:
        inside = next(
            (other for other in jobs if other.out.startswith(f"{job.out}/") or other.name.startswith(f"{job.name}/")),
            None,
        )
        if inside is not None:
            raise UserError(
                f"{path}: the folder of {inside.name} is inside the folder of {job.name}; rename one of these jobs"
            )
        for need in job.needs:
            if need not in known:
                raise UserError(f"{path}: {job.name} needs {need!r}, which is not a job of this plan")
    _check_acyclic(jobs, path)
    return jobs


def select_jobs(jobs: Iterable[Job], tags: Iterable[str]) -> list[Job]:
    """Select the jobs with all of these tags, and their dependencies. Raises UserError for an unknown tag."""
    jobs, tags = list(jobs), list(tags)
    known = {tag for job in jobs for tag in job.tags}
    for tag in tags:
        if tag not in known:
            raise UserError(f"--only {tag}: no job has this tag; available: {', '.join(sorted(known)) or 'none'}")
    return _with_dependencies(jobs, [job.name for job in jobs if set(tags) <= set(job.tags)])


def _with_dependencies(jobs: list[Job], names: Iterable[str]) -> list[Job]:
    """Return the named jobs and all their dependencies, in order."""
    by_name = {job.name: job for job in jobs}
    selected: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in selected and name in by_name:
            selected.add(name)
            pending += by_name[name].needs
    return [job for job in jobs if job.name in selected]


def options_from_table(table: Mapping[str, Any], where: object) -> Options:
    """Convert a TOML table to options: {epochs = 1, amp = true} is --epochs 1 --amp."""
    found = []
    for name, value in table.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
            raise UserError(f"{where}: {name} = {value!r}: expected a number, a string, a list of these, or true")
        found.append((f"--{name}", tuple(map(str, values))))
    return tuple(found)


def resolve(job: Job, outputs: Mapping[str, Path]) -> tuple[str, ...]:
    """Replace the references in a job's command. outputs: {job name: output folder}."""

    def value(match: re.Match[str]) -> str:
        what = match[1]
        kind, _, name = what.partition(":")
        if what == "out":
            return str(outputs[job.name])
        if kind == "data":
            places = _with_shared(DATA)
            return str(_first(job.folder, places, name) or places[0].format(name))
        if kind == "weights":
            return str(find_weights(job.folder, name) or outputs[f"dense/{name}"] / "model.safetensors")
        return str(outputs[what])

    return tuple(REFERENCE.sub(value, word) for word in job.command)


def find_weights(folder: Path, arch: str) -> Path | None:
    """Find trained weights of a network in the folder ``$WEIGHTS`` or, if that is unset, at the paths :data:`WEIGHTS`."""
    own = os.environ.get(WEIGHTS_FOLDER)
    places = [f"{own}/{name}" for name in ("{}.safetensors", "{}-*.th", "{}-*.pth", "{}.pth")] if own else []
    places = places if own else _with_shared(WEIGHTS)
    if not own and arch.endswith(CONV):
        places.insert(0, AUTHORS_FILE.format(arch.removesuffix(CONV)))
    return _first(folder, places, arch)


def _with_shared(places: Sequence[str]) -> list[str]:
    """Return these paths after those in the data folder $COMPRESSION_PAPERS_DATA, if it is set."""
    shared = os.environ.get(DATA_FOLDER)
    inside = [place.removeprefix("data/") for place in places if place.startswith("data/")]
    return [*(f"{Path(shared).expanduser()}/{place}" for place in inside), *places] if shared else [*places]


def _first(folder: Path, places: Iterable[str], name: str) -> Path | None:
    for place in places:
        pattern = Path(place.format(name))
        found = sorted((folder / pattern.parent).glob(pattern.name))
        if found:
            return found[0]
    return None


def _read(path: Path, above: tuple[Path, ...]) -> list[Job]:
    if path in above:
        raise UserError(f"{path}: the plan includes itself")
    if not path.is_file():
        raise UserError(f"{path}: no such plan")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: invalid TOML: {error}") from error
    unknown = set(content) - {"include", "only", "defaults", "quick", "job"}
    if unknown:
        raise UserError(
            f"{path}: unknown keys {', '.join(sorted(unknown))}; valid keys are include, only, defaults, quick and job"
        )
    for name, (kind, what) in {
        "include": (list, "a list of files"),
        "only": (list, "a list of tags"),
        "job": (list, "tables [[job]]"),
        "defaults": (dict, "a table"),
        "quick": (dict, "a table"),
    }.items():
        if not isinstance(content.get(name, kind()), kind):
            raise UserError(f"{path}: {name} expects {what}")
        if name in ("include", "only") and not all(isinstance(item, str) for item in content.get(name, [])):
            raise UserError(f"{path}: {name} expects {what}")
    jobs: list[Job] = []
    for other in content.get("include", []):
        found = _read((path.parent / other).resolve(), (*above, path))
        tags = set(content.get("only", ()))
        jobs += _with_dependencies(found, [job.name for job in found if not tags or tags & set(job.tags)])
    options, quick = (options_from_table(content.get(name, {}), path) for name in ("defaults", "quick"))
    for entry in content.get("job", []):
        jobs += _jobs(entry, path, options, quick)
        if len(jobs) > JOBS_LIMIT:
            raise UserError(f"{path}: more than {JOBS_LIMIT} jobs")
    return jobs


def _jobs(entry: Mapping[str, Any], path: Path, options, quick) -> list[Job]:
    """Expand an entry to one job for each point of its grid."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not isinstance(entry.get("run"), str):
        raise UserError(f"{path}: every job requires a name and a command: name = ..., run = ...")
    unknown = set(entry) - KEYS
    if unknown:
        raise UserError(f"{path}: {entry['name']}: unknown keys {', '.join(sorted(unknown))}")
    for name, (kind, what) in TYPES.items():
        value = entry.get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise UserError(f"{path}: {entry['name']}: {name} expects {what}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: {entry['name']}: {name} expects {what}")
    grid = entry.get("each", {})
    if not all(isinstance(values, list) for values in grid.values()):
        raise UserError(f"{path}: {entry['name']}: each expects a list of values per name")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [_job(entry, path, options, quick, point) for point in points]


def _job(entry: Mapping[str, Any], path: Path, options, quick, point: Mapping[str, Any]) -> Job:
    def filled(text: str) -> str:
        """Insert the grid values, also inside another reference as in {weights:{arch}}."""
        return REFERENCE.sub(lambda match: str(point.get(match[1], match[0])), text)

    name = filled(entry["name"])
    if not NAME.fullmatch(name):
        raise UserError(f"{path}: invalid job name {name!r}; use letters, digits and . _ - =, separated by /")
    if point and name == entry["name"]:
        raise UserError(
            f"{path}: {name}: the name must contain the values of `each`, for example {{{next(iter(point))}}}"
        )
    try:
        command = tuple(word for typed in shlex.split(filled(entry["run"])) for word in _split_option(typed))
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from error
    if len(command) < 2 or command[0] != "python" or (command[1] == "-m" and len(command) < 3):
        raise UserError(f"{path}: {name}: a command must begin with python SCRIPT or python -m MODULE")
    needs = tuple(filled(need) for need in entry.get("needs", ()))
    for reference in REFERENCE.findall(" ".join(command)):
        if reference not in ("out", *needs) and reference.partition(":")[0] not in ("data", "weights"):
            raise UserError(f"{path}: {name}: {{{reference}}} is neither a value of `each` nor a job in `needs`")
    out = filled(entry.get("out", name))
    if not NAME.fullmatch(out):
        raise UserError(f"{path}: {name}: invalid folder name {out!r}; use letters, digits and . _ - =, separated by /")
    return Job(
        name,
        command,
        path.parent,
        out,
        needs,
        float(entry.get("priority", 0)),
        tuple(entry.get("tags", ())),
        tuple(filled(pattern) for pattern in entry.get("keep", ())),
        entry.get("hours"),
        entry.get("epochs"),
        options,
        (*quick, *options_from_table(entry.get("quick", {}), path)),
        bool(entry.get("alone", False)),
    )


def _split_option(word: str) -> tuple[str, ...]:
    """Split ``--option=value`` into two arguments, so that options are found by name."""
    name, equals, value = word.partition("=")
    return (name, value) if name.startswith("--") and equals and value and not value.startswith("-") else (word,)


def _add_dense_jobs(jobs: list[Job]) -> list[Job]:
    """Add jobs that train missing weights. A job whose weights cannot be trained gets a ``problem``."""
    found = {job.name: job for job in jobs}
    recipes = {job.name: job for job in _read(DENSE, ())}
    done = []
    for job in jobs:
        references = [reference.partition(":") for reference in REFERENCE.findall(" ".join(job.command))]
        for arch in [name for kind, _, name in references if kind == "weights"]:
            need = f"dense/{arch}"
            if find_weights(job.folder, arch) is not None or need in job.needs:
                continue
            if need not in found and need in recipes:
                found[need] = replace(recipes[need], folder=job.folder, options=job.options, quick=job.quick)
                done.append(found[need])
            if need in found:
                job = replace(job, needs=(*job.needs, need))
            else:
                where = Path(os.environ.get(WEIGHTS_FOLDER) or job.folder / "data" / "weights")
                advice = advise_weights(where / f"{arch}.safetensors", arch)
                job = replace(
                    job, problem=f"no trained weights of {arch}: {where / arch}.safetensors is missing; {advice}"
                )
        done.append(job)
    return done


def _check_acyclic(jobs: list[Job], path: object) -> None:
    """Raise UserError for circular dependencies."""
    left = {job.name: set(job.needs) for job in jobs}
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        if not free:
            raise UserError(f"{path}: circular dependency of the jobs {', '.join(sorted(left))}")
        for name in free:
            del left[name]
