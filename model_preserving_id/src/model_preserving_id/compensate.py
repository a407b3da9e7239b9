"""Beyond the paper, and off by default: each cut makes good what the cuts before it lost. Unlabelled inputs, closed form.

The paper's T lets a layer's kept channels stand for all of its channels *in the network that is being cut*; what earlier
cuts changed stays changed. From the network's input to its output, one reading layer after the other:
  t        T is solved so that the kept channels give what the original network's channels were (Z_0 ~= Z[:, I] T)
  weights  the whole weight of the reading layer is solved so that its output, plus what is added to it, is the original's
           (the reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, with the sum that the layer adds into)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import Reading, Statistics, rows_read
from model_preserving_id.damage import first_inputs
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.halting import halting
from model_preserving_id.refit import can_refit, refit_weight
from model_preserving_id.rows import Gram
from model_preserving_id.settings import COMPENSATIONS, INPUTS
from model_preserving_id.sight import Plan, Seen, plan, watching

MEMORY = 2 * 2**30  # bytes: as long as all inputs fit, halted in both networks, each network is read once in all
HELD = 5  # largest layers' worth of numbers that a halted forward holds, in both networks

Look = Callable[[str], Iterator[tuple[Seen, Seen]]]


def check_compensation(how: str) -> None:
    if how not in COMPENSATIONS:
        raise UserError(f"--compensation {how}: expected one of {', '.join(COMPENSATIONS)}")


@torch.no_grad()
def compensate(
    folded: FoldedNetwork, inputs: Iterable[Tensor], how: str, *, count: int = INPUTS, memory: int = MEMORY
) -> None:
    """Solve the layers that read cut groups anew, in the order of execution; the channels that stay do not change.

    ``weights`` leaves layers that it cannot solve (grouped, one- and three-dimensional) to ``t``. The first ``count`` inputs
    are used. They advance from layer to layer together if ``memory`` bytes allow; else a part of both networks runs anew for
    every layer.
    """
    check_compensation(how)
    cut = folded.removed_from
    modules = dict(folded.model.named_modules())
    consumers = {one.consumer for one in folded.all_readings(cut)}
    names = [name for name in modules if name in consumers and not isinstance(modules[name], PadShortcut)]
    if how == "none" or not names:
        return
    found = plan(folded.model, names, folded.example)
    inputs = first_inputs(inputs, count)
    with _side_by_side(folded, inputs, found, memory) as look:
        for consumer in tqdm(found.order, desc="compensation", disable=None, leave=False):
            if how == "weights" and can_refit(modules[consumer]):
                refit_weight(folded, consumer, look(consumer))
                continue
            reads = [one for one in folded.all_readings(cut) if one.consumer == consumer]
            for one, statistics in zip(reads, _statistics(reads, look(consumer)), strict=True):
                folded.refold(one, statistics)


def _statistics(reads: list[Reading], looks: Iterable[tuple[Seen, Seen]]) -> list[Statistics]:
    """Of each group that one layer reads: Z^T Z and Z^T Z_0."""
    grams, cross = ([Gram(one.size) for one in reads] for _ in range(2))
    for before, now in looks:
        for i, one in enumerate(reads):
            rows = rows_read(now.layer, now.input, one)
            grams[i].add(rows)
            cross[i].add(rows, rows_read(before.layer, before.input, one))
    return [
        Statistics({one.consumer: z.matrix()}, {one.consumer: z.count}, {one.consumer: c.matrix()})
        for one, z, c in zip(reads, grams, cross, strict=True)
    ]


def _side_by_side(
    folded: FoldedNetwork, inputs: Sequence[Tensor], found: Plan, memory: int
) -> AbstractContextManager[Look]:
    """``look(name)``: what the original and the network at work show of a layer, batch by batch; asked in ``found.order``."""
    fits = found.once and sum(map(len, inputs)) * found.bytes * HELD <= memory
    return (_together if fits else _one_by_one)(folded, inputs, found)


@contextmanager
def _together(folded: FoldedNetwork, inputs: Sequence[Tensor], found: Plan) -> Iterator[Look]:
    """Every batch halts at every layer until that is solved: each network runs once."""
    runs: list[tuple[Iterator[Seen], Iterator[Seen]]] = []
    with (
        watching(folded.original, found.order, found.sums) as original,
        watching(folded.model, found.order, found.sums, redo=True) as model,
    ):
        try:
            for batch in inputs:
                runs.append((halting(partial(original, batch)), halting(partial(model, batch))))
            yield lambda name: (_next(before, now, name) for before, now in runs)
        finally:
            for pair in runs:
                for run in pair:
                    run.close()  # type: ignore[attr-defined]


def _next(before: Iterator[Seen], now: Iterator[Seen], name: str) -> tuple[Seen, Seen]:
    one, two = next(before), next(now)
    if not one.name == two.name == name:
        raise RuntimeError(f"{one.name} and {two.name} were seen where {name} was due: the order of layers changes")
    return one, two


@contextmanager
def _one_by_one(folded: FoldedNetwork, inputs: Sequence[Tensor], found: Plan) -> Iterator[Look]:
    """Nothing is held: both networks run as far as the layer, for every layer anew."""

    def look(name: str) -> Iterator[tuple[Seen, Seen]]:
        with (
            watching(folded.original, [name], found.sums) as original,
            watching(folded.model, [name], found.sums) as model,
        ):
            for batch in inputs:
                runs = halting(partial(original, batch)), halting(partial(model, batch))
                for seen in zip(*runs, strict=True):  # several calls of one layer are several looks
                    yield seen
                    if found.once:
                        break
                for run in runs:
                    run.close()  # type: ignore[attr-defined]

    yield look
