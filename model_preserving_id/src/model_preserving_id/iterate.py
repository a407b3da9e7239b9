"""``iditer``: one layer after the other loses a few channels, the one that loses least per MAC saved. (Paper, section 4)

Statistics belong to the network as it is: they are measured anew, where a cut upstream changed them, as soon as the picks
since the last measurement have saved a set share of the MACs (0: after every pick, as the paper does), and all T with them.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.atomic import atomic_file
from common.errors import UserError
from common.layers import weight_of
from common.models import PadShortcut
from common.target import Target
from common.tensor_files import read_tensor_file
from model_preserving_id.activations import Statistics, gather, warn_of_few_rows
from model_preserving_id.damage import DAMAGE_INPUTS, first_inputs, measure_damage
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.ranking import Ranking, rank_groups
from model_preserving_id.widths import Loss, Step, best_step, check_score, exchange, measured_loss, relative_loss

Row = dict[str, Any]


@dataclass(frozen=True)
class IterOptions:
    """The settings of ``iditer``.

    Attributes:
        target: Of the MACs.
        keep: Fraction of the picked group's channels that stays, per pick.
        refresh: Fraction of the MACs that may be saved between two measurements.
        score: As for :func:`model_preserving_id.prune_network`.
    """

    target: Target
    keep: float = 0.95
    refresh: float = 0.02
    score: str = "pivot"

    def __post_init__(self) -> None:
        check_score(self.score)
        if not 0 < self.keep <= 1:
            raise UserError(
                f"--k {self.keep} is out of range: the fraction of channels that a pick keeps lies in (0, 1]"
            )
        if not 0 <= self.refresh < 1:
            raise UserError(f"--refresh {self.refresh} is out of range: expected 0 <= refresh < 1")


def iterate(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    options: IterOptions,
    *,
    state: Path | None = None,
    on_pick: Callable[[FoldedNetwork, Row], None] | None = None,
) -> list[Row]:
    """Shrink groups, in place, until the MACs are within [0.98, 1.00] of the target: a row per pick.

    Rows: iteration, layer, before, after (channels), error, score, macs, macs_left (fraction), agreement (percent of the
    inputs on which the network predicts the class that the given one does; None between measurements), seconds.

    Args:
        inputs: Batches without labels, read several times.
        state: A file to resume from after an interruption, bit-identical.
        on_pick: Called after each pick.

    Raises:
        UserError: With the nearest reachable fraction where the target cannot be met.
    """
    progress = _Progress(folded, state)
    goal = options.target.fraction * folded.dense_macs
    statistics: dict[str, Statistics] = {}
    rankings: dict[str, Ranking] = {}
    stale = list(folded.groups)
    while True:
        start = time.monotonic()
        found, agreement = measure(folded, inputs, stale, progress.decisions)
        if not statistics:
            warn_of_few_rows(found)
        statistics |= found
        rankings |= rank_groups(folded, found)
        for name in set(found) & set(folded.kept):
            folded.shrink(name, rankings[name].kept(len(folded.kept[name])), found[name])
        if progress.rows:
            progress.rows[-1] |= {
                "agreement": agreement,
                "seconds": round(progress.rows[-1]["seconds"] + time.monotonic() - start, 2),
            }
        if folded.macs() <= goal:
            return progress.rows
        if options.score == "measured" and not progress.damage:
            progress.damage = measure_damage(folded, rankings, statistics, first_inputs(inputs, DAMAGE_INPUTS))
        loss = measured_loss(progress.damage) if progress.damage else relative_loss(rankings, options.score)
        in_order = {name: rankings[name] for name in folded.groups}
        shrunk = pick(folded, in_order, statistics, loss, options, progress.rows, on_pick)
        stale = folded.downstream(shrunk)
        progress.keep()


def measure(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    stale: Sequence[str],
    decisions: list[Tensor],
) -> tuple[dict[str, Statistics], float | None]:
    """Statistics of the stale groups, and the percentage of inputs on which the network decides as the original.

    decisions: those of the original, filled in by the first call; outputs that are no (N, classes) have no agreement.
    """
    seen: list[Tensor] = []

    def see(outputs: Tensor) -> None:
        seen.append(outputs.argmax(1).cpu() if isinstance(outputs, Tensor) and outputs.dim() == 2 else torch.empty(0))

    statistics = gather(folded.model, folded.all_readings(stale), inputs, device=folded.device, on_output=see)
    if not decisions:
        decisions.append(torch.cat(seen))
    now = torch.cat(seen)
    return statistics, round(100.0 * float((now == decisions[0]).double().mean()), 4) if len(now) else None


def pick(
    folded: FoldedNetwork,
    rankings: Mapping[str, Ranking],
    statistics: Mapping[str, Statistics],
    loss: Loss,
    options: IterOptions,
    rows: list[Row],
    on_pick: Callable[[FoldedNetwork, Row], None] | None = None,
) -> set[str]:
    """Shrink one group after the other until the target or the next measurement is due: the names of these groups."""
    dense, before = folded.dense_macs, folded.macs()
    shrunk: set[str] = set()
    while folded.macs() > options.target.fraction * dense:
        start = time.monotonic()
        step = best_step(rankings, folded.widths(), folded.macs, loss, options.keep, floor=options.target.least * dense)
        steps = [step] if step else _last_steps(folded, rankings, loss, options.target)
        for one in steps:
            folded.shrink(one.group, rankings[one.group].kept(one.after), statistics[one.group])
            shrunk.add(one.group)
            rows.append(_row(len(rows) + 1, one, dense, time.monotonic() - start))
            if on_pick:
                on_pick(folded, rows[-1])
        if before - folded.macs() >= options.refresh * dense:
            break
    return shrunk


def _last_steps(folded: FoldedNetwork, rankings: Mapping[str, Ranking], loss: Loss, target: Target) -> list[Step]:
    """No single step stays in the window: one group's next width, with another's given back, may."""
    now = folded.widths()
    found = exchange(rankings, now, folded.macs, folded.dense_macs, target)
    macs = folded.macs(found)
    changed = [name for name in found if found[name] != now[name]]
    errors = {name: loss(name, now[name], found[name]) for name in changed}
    return [Step(name, now[name], found[name], errors[name], 0.0, macs) for name in changed]


def _row(iteration: int, step: Step, dense_macs: int, seconds: float) -> Row:
    return {
        "iteration": iteration,
        "layer": step.group,
        "before": step.before,
        "after": step.after,
        "error": step.error,
        "score": step.score,
        "macs": step.macs,
        "macs_left": round(step.macs / dense_macs, 6),
        "agreement": None,
        "seconds": round(seconds, 2),
    }


class _Progress:
    """What an interrupted ``iterate`` needs to go on: rows, kept channels, folded weights, the original's decisions, damage."""

    def __init__(self, folded: FoldedNetwork, file: Path | None) -> None:
        self.folded, self.file = folded, file
        self.rows: list[Row] = []
        self.decisions: list[Tensor] = []
        self.damage: dict[str, list[float]] = {}
        if file is not None and file.is_file():
            self._restore(file)

    def _restore(self, file: Path) -> None:
        try:
            content = read_tensor_file(file)
            self.rows, self.decisions, self.damage = content["rows"], content["decisions"], content["damage"]
            self.folded.kept = content["kept"]
            for name, tensor in content["weights"].items():
                self._tensor(name).copy_(tensor)
        except Exception as error:
            raise UserError(f"{file} is damaged; delete it to start anew") from error

    def keep(self) -> None:
        """Write everything, atomically."""
        if self.file is None:
            return
        consumers = {one.consumer for one in self.folded.all_readings(self.folded.kept)}
        content = {
            "rows": self.rows,
            "decisions": self.decisions,
            "damage": self.damage,
            "kept": self.folded.kept,
            "weights": {name: self._tensor(name).cpu() for name in sorted(consumers)},
        }
        with atomic_file(self.file) as temporary:
            torch.save(content, temporary)

    def _tensor(self, consumer: str) -> Tensor:
        module = self.folded.model.get_submodule(consumer)
        return module.source if isinstance(module, PadShortcut) else weight_of(module).detach()
