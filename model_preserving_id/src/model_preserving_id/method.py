"""The paper as a method: from a trained network to channels that stay and consumers with T folded in, without labels."""

import time
from collections.abc import Callable

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterOptions, Row, iterate
from model_preserving_id.pictures import Pictures, pruning_pictures
from model_preserving_id.prune import shrink_in_one_shot
from model_preserving_id.settings import Pruning
from model_preserving_id.streams import is_stream

PICTURES = 5000  # calibration images, as the original README has it
PICTURES_OF_COMPARE = 200  # the network reads them a few times

OnPick = Callable[[FoldedNetwork, Row], None]


def decide(
    pruning: Pruning, start: TrainedModel, target: Target | None, stage: Stage, *, on_pick: OnPick | None = None
) -> Decision:
    """The channels that stay, and the full-size network with T folded in.

    Args:
        target: Of ``iditer`` and ``budget``; ``frac`` and ``eps`` have none.
        on_pick: Called after each pick of ``iditer``, which an interrupted stage resumes from ``stage.progress``.

    Raises:
        UserError: With the nearest fraction of the MACs for a target out of reach; for settings that do not fit the network.
    """
    data = start.data
    images = pruning_pictures(
        data,
        pruning.prune_batch_size or min(PICTURES, len(data.train)),
        stage.seed,
        without_class=pruning.without_class,
        batch_size=pruning.forward_blocksize,
        device=start.device,
        workers=start.workers,
    )
    stage.log(f"{start.name} on {data.name}: {pruning.label} with {len(images.images)} pictures")
    began, cpu = time.monotonic(), time.process_time()
    folded = FoldedNetwork(
        start.model, start.example, streams=pruning.streams, limits=start.limits, device=start.device
    )
    rows = _shrink(folded, images, pruning, target, stage, on_pick)
    compensate(folded, images, pruning.compensation, count=pruning.solve_batch_size)
    report = {
        "pictures": len(images.images),
        "picks": len(rows),
        "pruning_seconds": round(time.monotonic() - began, 1),
        "pruning_cpu_seconds": round(time.process_time() - cpu, 1),
    }
    return folded.decision(recalibrate=images if pruning.refresh_bn else (), report=report, log=rows)


def _shrink(
    folded: FoldedNetwork,
    images: Pictures,
    pruning: Pruning,
    target: Target | None,
    stage: Stage,
    on_pick: OnPick | None,
) -> list[Row]:
    """Shrink the groups, in place: the rows of the picks, none for a one-shot method."""
    if pruning.method == "iditer":
        assert target is not None
        options = IterOptions(target, pruning.k, pruning.refresh, pruning.score or "pivot")
        return iterate(folded, images, options, state=stage.progress, on_pick=on_pick)
    aim = {"budget": {"target": target}, "frac": {"keep": pruning.k}, "eps": {"eps": pruning.eps}}[pruning.method]
    shrink_in_one_shot(folded, images, **aim, score=pruning.score or "measured")  # type: ignore[arg-type]
    return []


def decide_in_one_shot(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """``budget`` with ``--compensation weights``, as ``compare`` calls it.

    The consumers' weights are re-solved against the given network's outputs, which goes beyond the paper's T (the README's
    table has both). Residual streams are not pruned where there is anything else: everything after them reads them, so
    their channels are the most expensive to lose.
    """
    inner = any(not is_stream(group) for group in start.groups)
    count = min(PICTURES_OF_COMPARE, len(start.data.train))
    pruning = Pruning(method="budget", streams="off" if inner else "exact", prune_batch_size=count)
    return decide(pruning, start, target, stage)


METHOD = Method("model-preserving ID", decide_in_one_shot, paper="Chee et al. 2022")
