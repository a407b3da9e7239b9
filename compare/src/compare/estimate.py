"""How long a comparison takes: first from a measured training step, then from the results that are finished.

The unit of the first estimate is the time in which a training step of the dense network processes one example. A result takes
its fine-tuning, what its method processes (``Method.examples``), and the measuring. What was measured then corrects it: a finished
result predicts those of the same method and target, else those of the same method, else all others.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.errors import UserError
from common.methods import Method
from common.runs import METRICS, read_record
from common.training import TrainOptions
from common.training.step_time import Speed
from compare.comparison_jobs import ComparisonJob
from compare.plan import is_finished, result_folders, tried_in_vain

FORWARD = 1 / 3  # of a training step
TEACHER = FORWARD  # of distillation
MEASURED = 3  # passes over the test images: before and after fine-tuning, and those of the dense network
OVERHEAD = 1.5  # seconds of a result: checks of the pruned network, files


@dataclass(frozen=True)
class Duration:
    """Time of a finished result. first: whether it is the first of its method and seed, which computes what its targets share."""

    job: ComparisonJob
    seconds: float
    first: bool


@dataclass(frozen=True)
class TimeEstimate:
    """Estimates for one comparison on this machine.

    Attributes:
        methods: {name: method}.
        recipe: Fine-tuning options.
        training: Training options of the dense networks, one per seed; None if one is given.
        distill: Whether fine-tuning runs the dense network, too.
        train, test: Numbers of images.
        speed: Time of a training step of the dense network, and its number of layers.
        processes: Number of processes that share the work.
        since: Time before which results do not count, because they are computed again.
    """

    out: Path
    methods: Mapping[str, Method]
    recipe: TrainOptions
    training: TrainOptions | None
    distill: bool
    train: int
    test: int
    speed: Speed
    processes: int = 1
    since: float = 0.0

    def left(self, jobs: Sequence[ComparisonJob]) -> float:
        """Return the seconds for the results that have not been tried; no less than the longest of their parts.

        A part is what one process computes, the results of a method and seed.
        """
        done, parts = self._durations(jobs), dict[tuple[str, int], float]()
        for job, first in _firsts([job for job in jobs if self._is_open(job)], done):
            part = (job.methods[0], job.seed)
            parts[part] = parts.get(part, 0.0) + self._predict(job, first, done)
        dense = self._dense({seed for _, seed in parts})
        return max([(dense + sum(parts.values())) / self.processes, *parts.values()], default=0.0)

    def _is_open(self, job: ComparisonJob) -> bool:
        done = is_finished(job, self.out)
        return not is_finished(job, self.out, self.since) if done else not tried_in_vain(job, self.out)

    def _durations(self, jobs: Sequence[ComparisonJob]) -> list[Duration]:
        """Read the times of finished results, in the order in which they were finished."""
        found = []
        for job in jobs:
            files = [folder / METRICS for folder in result_folders(job, self.out)]
            seconds = _read_seconds(files) if is_finished(job, self.out, self.since) else None
            if seconds is not None:
                found.append((files[-1].stat().st_mtime, job, seconds))
        found.sort(key=lambda one: one[0])
        pairs = _firsts([job for _, job, _ in found], [])
        return [Duration(job, one[2], first) for (job, first), one in zip(pairs, found, strict=True)]

    def _dense(self, seeds: Collection[int]) -> float:
        """Return the seconds of training the dense networks that do not exist, by those that do."""
        if self.training is None:
            return 0.0
        files = [self.out / f"seed{seed}" / "baseline" / METRICS for seed in seeds]
        missing = [file for file in files if not (file.is_file() and file.stat().st_mtime >= self.since)]
        known = [seconds for file in {*files} - {*missing} if (seconds := _read_seconds([file])) is not None]
        tests = (self.training.epochs / self.training.evaluate_every + 1) * self.test * FORWARD
        examples = self.training.epochs * self.train + tests
        return len(missing) * (
            sum(known) / len(known) if known else OVERHEAD + examples * self.speed.second_per_example
        )

    def _predict(self, job: ComparisonJob, first: bool, done: Sequence[Duration]) -> float:
        """Return the seconds of a result, scaled by what the most similar results took."""
        method = [one for one in done if one.job.methods == job.methods]
        alike = [one for one in method if one.job.targets == job.targets and one.first == first]
        known = alike or method or done
        expected = sum(self._expect(one.job, one.first) for one in known)
        factor = sum(one.seconds for one in known) / expected if known else 1.0
        return factor * self._expect(job, first)

    def _expect(self, job: ComparisonJob, first: bool) -> float:
        """Return the seconds of a result as far as a training step tells."""
        examples = 0.0
        for name in job.methods:
            method = self.methods[name]
            size = job.targets.get("macs", 1.0) if method.axis == "macs" else 1.0
            if first or not method.shares:
                examples += method.examples(self.recipe, self.train, self.speed.layers)
            if method.is_tuned:
                examples += self.recipe.epochs * self.train * (size + TEACHER * self.distill)
            examples += MEASURED * self.test * FORWARD
        return OVERHEAD * len(job.methods) + examples * self.speed.second_per_example


def _read_seconds(files: Sequence[Path]) -> float | None:
    """Return the sum of the times in metrics.json of some folders; None if one is damaged, which the report says."""
    try:
        return sum(_seconds_in(file, file.stat().st_mtime_ns) for file in files)
    except (OSError, UserError, TypeError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _seconds_in(file: Path, changed: int) -> float:
    """Read the time in a metrics.json, once unless it changes."""
    return float(read_record(file)["seconds"])


def _firsts(jobs: Sequence[ComparisonJob], done: Sequence[Duration]) -> Iterator[tuple[ComparisonJob, bool]]:
    """Yield each job and whether it is the first one of its method and seed."""
    seen = {(one.job.methods, one.job.seed) for one in done}
    for job in jobs:
        yield job, (job.methods, job.seed) not in seen
        seen.add((job.methods, job.seed))
