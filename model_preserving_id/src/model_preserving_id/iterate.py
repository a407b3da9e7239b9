"""``iditer``: in each step, prune a few channels of the layer with the smallest error per MAC. (Paper, section 4)

A step removes channels of the network as it is now, so that the kept sets are nested, and folds its T into the consumers'
current weights. Statistics are re-estimated in the groups downstream of pruned ones, each time the steps since the last update
have removed a given fraction of the MACs (0: after every step, as in the paper).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.batches import take_images
from common.errors import RunFolderError, UserError
from common.layers import weight_of
from common.models import PadShortcut
from common.outputs import first_output
from common.target import Target
from common.tensor_files import read_tensor_file, write_tensor_file
from model_preserving_id.activations import GramStatistics, gather_statistics, groups_with_few_rows, warn_of_few_rows
from model_preserving_id.channel_ranking import ChannelRanking, rank_groups
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.sensitivity import SENSITIVITY_IMAGES, measure_sensitivity
from model_preserving_id.width_allocation import (
    StepScore,
    WidthStep,
    check_score,
    error_score,
    find_best_step,
    free_below,
    leads_to_target,
    nearest_fraction,
    sensitivity_score,
)

LogRow = dict[str, Any]
PAPER_SCORES = ("pivot", "sigma")  # divided by the MACs of the group's layers, not by the MACs saved


@dataclass(frozen=True)
class IterationOptions:
    """Settings of ``iditer``.

    Attributes:
        target: Fraction of the MACs to keep.
        keep: Fraction of the selected group's channels that a step keeps.
        update_every: Fraction of the MACs removed between two updates of the statistics.
        score: ``"pivot"`` |r_{k+1,k+1}| / |r_11| or ``"sigma"`` sigma_{k+1} / sigma_1 (the authors' code for CIFAR-10), over the
            MACs of the layers that produce or read the group; or another score of :func:`model_preserving_id.prune_network`,
            over the MACs saved.
    """

    target: Target
    keep: float = 0.95
    update_every: float = 0.0
    score: str = "pivot"

    def __post_init__(self) -> None:
        check_score(self.score)
        if not 0 < self.keep <= 1:
            raise UserError(f"--k {self.keep}: expected the fraction of channels that a step keeps, in (0, 1]")
        if not 0 <= self.update_every < 1:
            raise UserError(f"--update-every {self.update_every}: expected a fraction in [0, 1)")


def iterate(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    options: IterationOptions,
    *,
    state: Path | None = None,
    shared: Path | None = None,
    on_step: Callable[[FoldedNetwork, LogRow], None] | None = None,
) -> list[LogRow]:
    """Prune groups, in place, until the MACs are within [0.98, 1.00] of the target, and return one row per step.

    Far from their targets, runs that differ in nothing else take the same steps: a run starts where an earlier one was.

    Rows: iteration, layer, before, after (channels), error, score, macs, macs_left (fraction), agreement (percentage of the
    inputs with the same predicted class as the unpruned network; None between updates), seconds, cpu_seconds (of this process).

    Args:
        inputs: Batches of images, without labels, read several times.
        state: File to resume from after an interruption; the result is bit-identical.
        shared: File of the last state that does not depend on the target, for runs with other targets; the result is
            bit-identical, and the rows have the seconds of the run that took the step.
        on_step: Called after each step that this run takes.

    Raises:
        UserError: With the nearest reachable fraction if the target cannot be met.
    """
    progress = _Progress(folded, options.target, state, shared)
    goal = options.target.fraction * folded.dense_spent
    statistics: dict[str, GramStatistics] = {}
    rankings: dict[str, ChannelRanking] = {}
    stale, pruned = list(folded.groups), set[str]()
    while True:
        clock = _Clock()
        found, agreement = measure_statistics(folded, inputs, stale, progress.predictions)
        few = groups_with_few_rows(found)
        if few and not statistics:
            warn_of_few_rows(found, few)
        changed = {name: statistics[name] for name in pruned} | found
        changed = {
            name: one.restricted(folded.kept[name]) if name in folded.kept else one for name, one in changed.items()
        }
        statistics |= changed
        rankings |= rank_groups(folded, changed)
        if progress.rows:
            progress.rows[-1] |= {"agreement": agreement, **clock.seconds(progress.rows[-1])}
        if folded.spent() <= goal:
            return progress.rows
        if options.score == "output-change" and not progress.sensitivity:
            progress.sensitivity = measure_sensitivity(
                folded, rankings, statistics, take_images(inputs, SENSITIVITY_IMAGES)
            )
        step_score = (
            sensitivity_score(progress.sensitivity) if progress.sensitivity else error_score(rankings, options.score)
        )
        in_order = {name: rankings[name] for name in folded.groups}
        pruned = _prune_until_update(folded, in_order, statistics, step_score, options, progress, on_step)
        stale = folded.downstream(pruned)
        progress.save()


def measure_statistics(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    stale: Sequence[str],
    predictions: list[Tensor],
) -> tuple[dict[str, GramStatistics], float | None]:
    """Return the statistics of the stale groups, and the agreement with the unpruned network (percent).

    Args:
        predictions: Predicted classes of the unpruned network, appended by the first call.

    Returns:
        Statistics by group, and the agreement; None if the outputs are not of shape (N, classes).
    """
    current: list[Tensor] = []

    def add(outputs: Tensor) -> None:
        scores = first_output(outputs)
        current.append(scores.argmax(1).cpu() if scores.dim() == 2 else torch.empty(0))

    statistics = gather_statistics(
        folded.model, folded.consumer_inputs(stale), inputs, device=folded.device, on_output=add
    )
    if not predictions:
        predictions.append(torch.cat(current))
    classes = torch.cat(current)
    return statistics, round(100.0 * float((classes == predictions[0]).double().mean()), 4) if len(classes) else None


def _prune_until_update(
    folded: FoldedNetwork,
    rankings: Mapping[str, ChannelRanking],
    statistics: Mapping[str, GramStatistics],
    step_score: StepScore,
    options: IterationOptions,
    progress: "_Progress",
    on_step: Callable[[FoldedNetwork, LogRow], None] | None = None,
) -> set[str]:
    """Prune step by step until the target is met or an update is due, and return the names of the pruned groups."""
    target, dense, before = options.target, folded.dense_spent, folded.spent()
    pruned: set[str] = set()
    while folded.spent() > target.fraction * dense:
        clock = _Clock()
        if progress.shared is not None:
            free = free_below(rankings, folded.widths(), folded.spent, dense, options.keep)
            progress.free_below = min(progress.free_below, free)
        search = partial(
            find_best_step,
            rankings,
            folded.widths(),
            folded.spent,
            step_score,
            options.keep,
            floor=target.min_fraction * dense,
            per_layer=options.score in PAPER_SCORES,
        )
        # The search for a way to the target may miss one: then any step above the target's lower bound is taken.
        step = (
            search(leads_on=lambda widths: leads_to_target(rankings, widths, folded.spent, dense, target)) or search()
        )
        if step is None:
            nearest = nearest_fraction(rankings, folded.widths(), folded.spent, dense, target)
            target.raise_unreachable("no sequence of steps", [nearest])
        folded.narrow_group(step.group, rankings[step.group].kept(step.after), statistics[step.group])
        pruned.add(step.group)
        progress.rows.append(_row(len(progress.rows) + 1, step, folded) | clock.seconds())
        if on_step:
            on_step(folded, progress.rows[-1])
        if before - folded.spent() >= options.update_every * dense:
            break
    return pruned


def _row(iteration: int, step: WidthStep, folded: FoldedNetwork) -> LogRow:
    macs = folded.macs()
    return {
        "iteration": iteration,
        "layer": step.group,
        "before": step.before,
        "after": step.after,
        "error": step.error,
        "score": step.score,
        "macs": macs,
        "macs_left": round(macs / folded.dense_macs, 6),
        "agreement": None,
    }


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start, self.cpu = time.monotonic(), time.process_time()

    def seconds(self, before: LogRow | None = None) -> LogRow:
        """Return the values ``seconds`` and ``cpu_seconds`` of a row, with those that it had ``before``."""
        now = {"seconds": time.monotonic() - self.start, "cpu_seconds": time.process_time() - self.cpu}
        return {name: round(value + (before or {}).get(name, 0.0), 2) for name, value in now.items()}


class _Progress:
    """State of ``iterate``: rows, kept channels, folded weights, predictions and sensitivity of the unpruned network.

    ``free_below``: all steps so far are the same for targets below this fraction of the MACs.
    """

    def __init__(self, folded: FoldedNetwork, target: Target, file: Path | None, shared: Path | None) -> None:
        self.folded, self.target, self.file, self.shared = folded, target, file, shared
        self.rows: list[LogRow] = []
        self.predictions: list[Tensor] = []
        self.sensitivity: dict[str, list[float]] = {}
        self.free_below = 1.0
        if file is not None and file.is_file():
            self._restore(file)
        elif shared is not None and shared.is_file():
            self._restore(shared, shared=True)

    def _restore(self, file: Path, shared: bool = False) -> None:
        try:
            content = read_tensor_file(file)
            if shared and not self.target.fraction < content["free_below"]:
                return
            self.free_below = content["free_below"]
            self.rows, self.predictions, self.sensitivity = content["rows"], content["decisions"], content["damage"]
            self.folded.kept = content["kept"]
            for name, tensor in content["weights"].items():
                self._tensor(name).copy_(tensor)
        except Exception as error:
            raise RunFolderError(f"{file}: the file is damaged; delete it to start again") from error

    def save(self) -> None:
        """Write the state, atomically; also for runs with other targets, as long as it does not depend on this one."""
        files = [self.file, self.shared if self.target.fraction < self.free_below else None]
        if files == [None, None]:
            return
        consumers = {one.consumer for one in self.folded.consumer_inputs(self.folded.kept)}
        content = {
            "rows": self.rows,
            "decisions": self.predictions,
            "damage": self.sensitivity,
            "kept": self.folded.kept,
            "free_below": self.free_below,
            "weights": {name: self._tensor(name).cpu() for name in sorted(consumers)},
        }
        for file in files:
            if file is not None:
                write_tensor_file(file, content)

    def _tensor(self, consumer: str) -> Tensor:
        module = self.folded.model.get_submodule(consumer)
        return module.source if isinstance(module, PadShortcut) else weight_of(module).detach()
