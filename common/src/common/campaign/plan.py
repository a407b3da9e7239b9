"""Plans: jobs as data, read from TOML.

    include = ["../decore/plan.toml"]              # other plans; their jobs and options stay their own
    only = ["cifar10"]                             # of those, jobs with one of these tags, and what they need
    [defaults]                                     # options for every command that knows them
    dataset = "cifar10"
    [quick]                                        # options that --quick adds
    epochs = 1
    [[job]]
    name = "graph/vgg16-{threshold}"               # a name for each value of a grid
    run = "python prune_cifar10.py --pretrained {weights:vgg16} --threshold {threshold} --saved-dir {out}"
    each = { threshold = [0.8, 0.75] }
    needs = ["dense/vgg16"]                        # {dense/vgg16} is that job's folder
    priority = 50                                  # the highest first
    tags = ["tier-b"]
    keep = ["vgg16-*/model.safetensors"]           # files that `collect` takes along, weights as float16
    epochs = 90                                    # where its command does not say how many
    hours = 0.5                                    # where epochs do not tell how long it takes
    quick = { pictures = 200 }                     # its own options for --quick
    alone = true                                   # nothing else runs beside it: it measures time

A command runs in the folder of its plan. ``{out}`` is the job's own folder. ``{data:NAME}`` and ``{weights:ARCH}`` are the
first of the usual places that exists (:data:`DATA`, :data:`WEIGHTS`); without weights, the job ``dense/ARCH`` trains them: that
of the plan, else that of ``dense.toml`` beside this module.
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
WEIGHTS_FOLDER = "WEIGHTS"  # in the environment: the folder of weights, instead of the usual places
NAME = re.compile(r"[A-Za-z0-9][\w.=-]*(?:/[A-Za-z0-9][\w.=-]*)*")
REFERENCE = re.compile(r"\{([^{}]+)\}")
KEYS = {"name", "run", "each", "needs", "priority", "tags", "keep", "hours", "epochs", "out", "quick", "alone"}
TYPES: dict[str, tuple[Any, str]] = {
    "each": (dict, "a table of lists"),
    "quick": (dict, "a table of options"),
    **{name: (list, "a list of texts") for name in ("needs", "tags", "keep")},
    **{name: (int | float, "a number") for name in ("priority", "hours", "epochs")},
    "out": (str, "a text"),
    "alone": (bool, "true or false"),
}
JOBS_LIMIT = 10_000
Options = Sequence[tuple[str, tuple[str, ...]]]  # (("--epochs", ("1",)), ("--amp", ()))
DENSE = Path(__file__).parent / "dense.toml"


@dataclass(frozen=True)
class Job:
    """One command.

    options, quick: of its plan, for commands that know them. out: name of its output folder. problem: why it can't run.
    """

    name: str
    words: tuple[str, ...]
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
        """The paper that it belongs to: the folder of its plan."""
        return self.folder.name


def read_plan(path: Path | str) -> list[Job]:
    """All jobs of a plan and of those that it includes, in order. Raises UserError for a plan that is not one."""
    jobs = _with_dense(_read(Path(path).resolve(), ()))
    names = [job.name for job in jobs]
    known = set(names)
    if len(known) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: there are two jobs {twice!r}")
    for job in jobs:
        inside = next(
            (other for other in jobs if other.out.startswith(f"{job.out}/") or other.name.startswith(f"{job.name}/")),
            None,
        )
        if inside is not None:
            raise UserError(f"{path}: the folder of {inside.name} would lie in that of {job.name}")
        for need in job.needs:
            if need not in known:
                raise UserError(f"{path}: {job.name} needs {need!r}, and there is no such job")
    _require_order(jobs, path)
    return jobs


def chosen(jobs: Iterable[Job], tags: Iterable[str]) -> list[Job]:
    """The jobs with all of these tags, and what they need; all jobs without tags. Raises UserError for an unknown tag."""
    jobs, tags = list(jobs), list(tags)
    known = {tag for job in jobs for tag in job.tags}
    for tag in tags:
        if tag not in known:
            raise UserError(f"no job has the tag {tag!r}; there are {', '.join(sorted(known)) or 'none'}")
    return _with_needs(jobs, [job.name for job in jobs if set(tags) <= set(job.tags)])


def _with_needs(jobs: list[Job], names: Iterable[str]) -> list[Job]:
    """The jobs of these names and all that they need, in order."""
    by_name = {job.name: job for job in jobs}
    wanted: set[str] = set()
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name not in wanted and name in by_name:
            wanted.add(name)
            open_names += by_name[name].needs
    return [job for job in jobs if job.name in wanted]


def options_of(table: Mapping[str, Any], where: object) -> Options:
    """Options of a TOML table: {epochs = 1, amp = true} is --epochs 1 --amp."""
    found = []
    for name, value in table.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
            raise UserError(f"{where}: {name} = {value!r} is no option of a command line")
        found.append((f"--{name}", tuple(map(str, values))))
    return tuple(found)


def resolve(job: Job, outputs: Mapping[str, Path]) -> tuple[str, ...]:
    """The words of a job's command; ``outputs``: the folder of every job's output."""

    def value(match: re.Match[str]) -> str:
        what = match[1]
        kind, _, name = what.partition(":")
        if what == "out":
            return str(outputs[job.name])
        if kind == "data":
            return str(_first(job.folder, DATA, name) or DATA[0].format(name))
        if kind == "weights":
            return str(find_weights(job.folder, name) or outputs[f"dense/{name}"] / "model.safetensors")
        return str(outputs[what])

    return tuple(REFERENCE.sub(value, word) for word in job.words)


def find_weights(folder: Path, arch: str) -> Path | None:
    """Trained weights of a network in the usual places below and beside a package's folder, or in ``WEIGHTS`` alone."""
    own = os.environ.get(WEIGHTS_FOLDER)
    places = [f"{own}/{name}" for name in ("{}.safetensors", "{}-*.th", "{}-*.pth", "{}.pth")] if own else []
    return _first(folder, places if own else WEIGHTS, arch)


def _first(folder: Path, places: Iterable[str], name: str) -> Path | None:
    for place in places:
        pattern = Path(place.format(name))
        found = sorted((folder / pattern.parent).glob(pattern.name))
        if found:
            return found[0]
    return None


def _read(path: Path, above: tuple[Path, ...]) -> list[Job]:
    if path in above:
        raise UserError(f"{path}: it includes itself")
    if not path.is_file():
        raise UserError(f"{path}: no such plan")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    unknown = set(content) - {"include", "only", "defaults", "quick", "job"}
    if unknown:
        raise UserError(
            f"{path}: unknown {', '.join(sorted(unknown))}; a plan has include, only, defaults, quick and job"
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
    jobs: list[Job] = []
    for other in content.get("include", []):
        found = _read((path.parent / other).resolve(), (*above, path))
        tags = set(content.get("only", ()))
        jobs += _with_needs(found, [job.name for job in found if not tags or tags & set(job.tags)])
    options, quick = (options_of(content.get(name, {}), path) for name in ("defaults", "quick"))
    for entry in content.get("job", []):
        jobs += _jobs(entry, path, options, quick)
        if len(jobs) > JOBS_LIMIT:
            raise UserError(f"{path}: more than {JOBS_LIMIT} jobs")
    return jobs


def _jobs(entry: Mapping[str, Any], path: Path, options, quick) -> list[Job]:
    """One job, or one for each point of its grid."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not isinstance(entry.get("run"), str):
        raise UserError(f"{path}: a job has a name and a command: name = ..., run = ...")
    unknown = set(entry) - KEYS
    if unknown:
        raise UserError(f"{path}: {entry['name']}: unknown {', '.join(sorted(unknown))}")
    for name, (kind, what) in TYPES.items():
        value = entry.get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise UserError(f"{path}: {entry['name']}: {name} expects {what}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: {entry['name']}: {name} expects {what}")
    grid = entry.get("each", {})
    if not all(isinstance(values, list) for values in grid.values()):
        raise UserError(f"{path}: {entry['name']}: each expects a list of values for every name")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [_job(entry, path, options, quick, point) for point in points]


def _job(entry: Mapping[str, Any], path: Path, options, quick, point: Mapping[str, Any]) -> Job:
    def filled(text: str) -> str:
        """With the values of the grid, also inside another reference as in {weights:{arch}}."""
        return REFERENCE.sub(lambda match: str(point.get(match[1], match[0])), text)

    name = filled(entry["name"])
    if not NAME.fullmatch(name):
        raise UserError(f"{path}: {name!r} is no name of a job: letters, digits and . _ - = with / between")
    if point and name == entry["name"]:
        raise UserError(f"{path}: {name}: the values of `each` belong into the name, like {{{next(iter(point))}}}")
    try:
        words = tuple(word for typed in shlex.split(filled(entry["run"])) for word in _apart(typed))
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from error
    if len(words) < 2 or words[0] != "python" or (words[1] == "-m" and len(words) < 3):
        raise UserError(f"{path}: {name}: a command begins with python SCRIPT or python -m MODULE")
    needs = tuple(filled(need) for need in entry.get("needs", ()))
    for reference in REFERENCE.findall(" ".join(words)):
        if reference not in ("out", *needs) and reference.partition(":")[0] not in ("data", "weights"):
            raise UserError(f"{path}: {name}: {{{reference}}} is neither a value of `each` nor a job that it needs")
    out = filled(entry.get("out", name))
    if not NAME.fullmatch(out):
        raise UserError(f"{path}: {name}: {out!r} is no name of a folder")
    return Job(
        name,
        words,
        path.parent,
        out,
        needs,
        float(entry.get("priority", 0)),
        tuple(entry.get("tags", ())),
        tuple(filled(pattern) for pattern in entry.get("keep", ())),
        entry.get("hours"),
        entry.get("epochs"),
        options,
        (*quick, *options_of(entry.get("quick", {}), path)),
        bool(entry.get("alone", False)),
    )


def _apart(word: str) -> tuple[str, ...]:
    """``--option=value`` as two words, so that everybody who looks for an option finds it."""
    name, equals, value = word.partition("=")
    return (name, value) if name.startswith("--") and equals and value and not value.startswith("-") else (word,)


def _with_dense(jobs: list[Job]) -> list[Job]:
    """The jobs, and those that train weights which are nowhere; a job that nobody can make weights for gets a problem."""
    found = {job.name: job for job in jobs}
    recipes = {job.name: job for job in _read(DENSE, ())}
    done = []
    for job in jobs:
        references = [reference.partition(":") for reference in REFERENCE.findall(" ".join(job.words))]
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
                where = job.folder / "data" / "weights"
                job = replace(
                    job, problem=f"no trained weights of {arch} in {where} (`python -m common.fetch` lists some)"
                )
        done.append(job)
    return done


def _require_order(jobs: list[Job], path: object) -> None:
    """Raises UserError if jobs need one another in a circle."""
    left = {job.name: set(job.needs) for job in jobs}
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        if not free:
            raise UserError(f"{path}: these jobs need one another: {', '.join(sorted(left))}")
        for name in free:
            del left[name]
