"""The plan of a comparison: what it computes, printed before the work and kept in plan.json, so that what is missing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.errors import UserError, one_line
from common.executor import claim_file
from common.runs import METRICS, read_record
from compare.comparison_jobs import ComparisonJob, chain_targets, comparison_jobs, select_methods
from compare.record_form import PLAN as FORM
from compare.record_form import check_form
from compare.settings import BYTES_TARGETS, MACS_TARGETS, Compare

if TYPE_CHECKING:
    from common.methods import Method
    from common.target import Axis
    from common.training.train_options import TrainOptions

FILE, CLAIMS = "plan.json", ".claims"
FAILED = "failed.txt"
UNREACHABLE = "unreachable.json"  # the target and the reason, in the folder of a result whose target cannot be reached
UNREACHABLE_NAMES = (UNREACHABLE, "refused.json")  # the second: in folders of older versions
SHOWN = 8  # names in a message
UNREACHED, UNTRIED = "unreachable", "not computed yet"
NO_TARGET = "no target"
AXES = {"macs": "MACs", "latency": "latency", "bytes": "bytes"}


@dataclass(frozen=True)
class Plan:
    """What a comparison computes.

    Attributes:
        methods: {name: method}.
        jobs: One job per result.
        left_out: Methods that have no target.
    """

    methods: Mapping[str, Method]
    jobs: Sequence[ComparisonJob]
    left_out: Sequence[str] = ()


def make_plan(settings: Compare, installed: Mapping[str, Method]) -> Plan:
    """Return what the options ask for. Raises UserError if that is nothing."""
    from common.methods import find_method  # torch begins here

    chains = [chain.split(",") for chain in settings.results.chain]
    single = {} if chains and not settings.results.methods else select_methods(installed, settings.results.methods)
    selected = single | {name: find_method(installed, name) for chain in chains for name in chain}
    macs, size, latency = (
        settings.results.target_macs,
        settings.results.target_bytes,
        settings.results.target_latency,
    )
    if macs is None:
        macs = [] if latency else list(MACS_TARGETS)
    if size is None:
        named = {*(settings.results.methods or []), *(name for chain in chains for name in chain)}
        asked = any(selected[name].axis == "bytes" for name in named & selected.keys())
        size = list(BYTES_TARGETS) if asked or settings.data.dataset == "digits" else []
    jobs = comparison_jobs(selected, settings.results.seeds, macs, size, chains, latency)
    jobs = [job for job in jobs if job.is_chain or job.methods[0] in single]
    if not jobs:
        raise UserError(
            "nothing to do: no target fits the selected methods; use --target-macs, --target-latency or --target-bytes"
        )
    for chain in chains:
        aims: dict[Axis, list[float]] = {"macs": macs, "latency": latency, "bytes": size}
        if not any(True for _ in chain_targets(chain, selected, aims)):
            raise UserError(
                f"--chain {','.join(chain)}: no target fits; use --target-macs or --target-latency, and --target-bytes"
            )
    used = {name for job in jobs for name in job.methods}
    return Plan(selected, jobs, [name for name in single if name not in used])


def describe_plan(plan: Plan, settings: Compare, dense: TrainOptions | None, tuning: TrainOptions) -> list[str]:
    """Return the lines that are printed before the work. dense: training of the dense network; None if it is given."""
    jobs, seeds = plan.jobs, list(dict.fromkeys(job.seed for job in plan.jobs))
    out = Path(settings.execution.out)
    finished = 0 if settings.execution.force else sum(is_finished(job, out) for job in jobs)
    done = "" if not finished else ", all finished" if finished == len(jobs) else f", {finished} of them finished"
    lines = [f"Plan: {_count(len(jobs), 'result')}{done}"]
    kinds: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        if job.seed == seeds[0]:
            of = kinds.setdefault(job.methods, [])
            of.append(
                " and ".join(f"{100 * target:g} % of the {AXES[axis]}" for axis, target in job.targets.items())
                or NO_TARGET
            )
    by_targets: dict[tuple[str, ...], list[str]] = {}
    for methods, aims in kinds.items():
        by_targets.setdefault(tuple(aims), []).append(" + ".join(methods))
    for targets, names in by_targets.items():
        rows = f"{_count(len(names), 'method')} x {_count(len(targets), 'target')} x {_count(len(seeds), 'seed')}"
        lines.append(f"  {rows}: {', '.join(names)}; {_join_targets(targets)}")
    if plan.left_out:
        lines.append(
            f"  left out, because they target bytes: {', '.join(plan.left_out)} (--target-bytes 0.05 adds them)"
        )
    if dense is None:
        lines.append(f"  dense network: {one_line(settings.network.checkpoint or settings.network.weights)}")
    lines.append(f"  trained: {_describe_training(plan, settings, dense, tuning, len(seeds))}")
    return lines


def _join_targets(aims: Sequence[str]) -> str:
    """Join targets of one axis as "70, 50 and 30 % of the MACs"."""
    endings = {aim.partition(" ")[2] for aim in aims}
    if len(endings) > 1 or any(" and " in aim for aim in aims):
        return ", ".join(aims)
    numbers = [aim.partition(" ")[0] for aim in aims]
    return " and ".join([", ".join(numbers[:-1]), numbers[-1]] if len(numbers) > 1 else numbers) + f" {endings.pop()}"


def _describe_training(
    plan: Plan, settings: Compare, dense: TrainOptions | None, tuning: TrainOptions, seeds: int
) -> str:
    used = {name for job in plan.jobs for name in job.methods}
    parts = []
    if dense is not None:
        name = settings.network.model or settings.network.arch
        each = ", once per seed" if seeds > 1 else ""
        parts.append(f"the dense network ({name}, {_count(dense.epochs, 'epoch')}{each})")
    trains = [name for name in plan.methods if name in used and plan.methods[name].trains]
    parts += [f"something of their own by {', '.join(trains)}"] * bool(trains)
    pruned = any(plan.methods[name].is_tuned for name in used)
    parts += [f"every pruned network ({_count(tuning.epochs, 'epoch')} of fine-tuning)"] * bool(
        tuning.epochs and pruned
    )
    return "; ".join(parts) or "nothing"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def is_finished(job: ComparisonJob, out: Path, since: float = 0.0) -> bool:
    """Return whether a result exists, of a chain that of its last step. since: time before which it does not count."""
    file = result_folders(job, out)[-1] / METRICS
    return file.is_file() and file.stat().st_mtime >= since


def result_folders(job: ComparisonJob, out: Path) -> list[Path]:
    """Return the folder of a result; of a chain, those of its steps."""
    folder = out / f"seed{job.seed}" / job.name
    return [folder / f"step{i + 1}-{name}" for i, name in enumerate(job.methods)] if job.is_chain else [folder]


def write_plan(out: Path, jobs: Sequence[ComparisonJob], accept_unreachable: bool) -> None:
    """Add jobs to the plan in the folder of the comparison, which other commands may do at the same time."""
    with claim_file(out / CLAIMS / "plan", wait=True):
        known = [record for record in _read_plan(out) if _read_job(record) not in jobs]
        new = [{"methods": list(job.methods), "targets": dict(job.targets), "seed": job.seed} for job in jobs]
        write_json(
            out / FILE, {"jobs": known + [record | {"accept_unreachable": accept_unreachable} for record in new]}
        )


def _read_plan(out: Path) -> list[dict[str, Any]]:
    """Read the jobs that commands have asked for; empty if no plan was kept. Raises UserError if it is damaged."""
    if not (out / FILE).is_file():
        return []
    record = read_record(out / FILE)
    check_form(out / FILE, record, FORM, "delete this file, and run the command again")
    return record["jobs"]


def planned_missing(out: Path, accept_unreachable: bool = False) -> str:
    """Return a sentence on the missing results of all commands in a folder; empty if none is, or no plan was kept."""
    records = _read_plan(out)
    jobs = [_read_job(record) for record in records]
    accepted = [accept_unreachable or record["accept_unreachable"] for record in records]
    return missing_results(jobs, out, accepted)


def missing_results(jobs: Sequence[ComparisonJob], out: Path, accepted: Sequence[bool]) -> str:
    """Return a sentence on the missing results of some jobs; empty if none is.

    accepted: whether a target that the method cannot reach counts as a result, by job.
    """
    states = [_state(job, out) for job in jobs]
    states = ["" if state == UNREACHED and fine else state for state, fine in zip(states, accepted, strict=True)]
    where = {
        "failed": f" (see {FAILED} in their folders)",
        UNREACHED: f" (see {UNREACHABLE} in their folders)",
        UNTRIED: f" (repeat their command, or delete {FILE} to drop them)",
    }
    texts = [
        f"{reason}: {_name_jobs([job for job, state in zip(jobs, states, strict=True) if state == reason])}{about}"
        for reason, about in where.items()
        if reason in states
    ]
    count = sum(map(bool, states))
    return f"{count} of {len(jobs)} results are missing; {'; '.join(texts)}" if count else ""


def _read_job(record: Mapping[str, Any]) -> ComparisonJob:
    return ComparisonJob(tuple(record["methods"]), record["targets"], record["seed"])


def tried_in_vain(job: ComparisonJob, out: Path) -> str:
    """Return why a result could not be computed; empty if nothing is known."""
    folder = out / f"seed{job.seed}" / job.name
    if (folder / FAILED).is_file():
        return "failed"
    return UNREACHED if any((folder / name).is_file() for name in UNREACHABLE_NAMES) else ""


def _state(job: ComparisonJob, out: Path) -> str:
    return tried_in_vain(job, out) or ("" if is_finished(job, out) else UNTRIED)


def _name_jobs(jobs: Sequence[ComparisonJob]) -> str:
    names = [f"{job.name}, seed {job.seed}" for job in jobs]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
