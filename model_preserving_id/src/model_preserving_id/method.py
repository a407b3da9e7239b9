"""The paper as a method: from a trained network to kept channels and folded consumers, without labels."""

import time
from collections.abc import Callable

from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from model_preserving_id.calibration import CalibrationImages, calibration_images
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, LogRow, iterate
from model_preserving_id.prune import prune_one_shot
from model_preserving_id.residual import is_residual_stream
from model_preserving_id.settings import ChannelPruningOptions

DEFAULT_IMAGES = 5000  # calibration images, as in the original README
COMPARE_IMAGES = 200  # calibration images for ``compare``; each is read several times

OnStep = Callable[[FoldedNetwork, LogRow], None]


def decide(
    pruning: ChannelPruningOptions,
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    *,
    on_step: OnStep | None = None,
) -> Decision:
    """Return the kept channels and the full-size network with T folded in.

    Args:
        target: Target of ``iditer`` and ``budget``; None for ``frac`` and ``eps``.
        on_step: Called after each step of ``iditer``, which resumes from ``stage.progress`` after an interruption.

    Raises:
        UserError: With the nearest fraction of the MACs if the target cannot be met; if the settings do not match the network.
    """
    data = start.data
    images = calibration_images(
        data,
        pruning.prune_batch_size or min(DEFAULT_IMAGES, len(data.train)),
        stage.seed,
        without_class=pruning.without_class,
        batch_size=pruning.forward_blocksize,
        device=start.device,
        workers=start.workers,
    )
    stage.log(f"{start.name} on {data.name}: {pruning.label} with {len(images.image_set)} images")
    began, cpu = time.monotonic(), time.process_time()
    folded = FoldedNetwork(
        start.model, start.example, residual=pruning.residual, limits=start.limits, device=start.device
    )
    rows = _prune_groups(folded, images, pruning, target, stage, on_step)
    compensate(folded, images, pruning.compensation, count=pruning.reconstruction_images)
    report = {
        "images": len(images.image_set),
        "picks": len(rows),
        "pruning_seconds": round(time.monotonic() - began, 1),
        "pruning_cpu_seconds": round(time.process_time() - cpu, 1),
    }
    return folded.decision(recalibrate=images if pruning.recalibrate_bn else (), report=report, log=rows)


def _prune_groups(
    folded: FoldedNetwork,
    images: CalibrationImages,
    pruning: ChannelPruningOptions,
    target: Target | None,
    stage: Stage,
    on_step: OnStep | None,
) -> list[LogRow]:
    """Prune the groups, in place, and return one row per step of ``iditer``; no rows for the other methods."""
    if pruning.method == "iditer":
        assert target is not None
        options = IterationOptions(target, pruning.k, pruning.update_every, pruning.score or "pivot")
        return iterate(folded, images, options, state=stage.progress, on_step=on_step)
    criterion = {"budget": {"target": target}, "frac": {"keep": pruning.k}, "eps": {"eps": pruning.eps}}[pruning.method]
    prune_one_shot(folded, images, **criterion, score=pruning.score or "output-change")  # type: ignore[arg-type]
    return []


def decide_in_one_shot(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Prune with ``--method budget --compensation weights``, as ``compare`` calls it.

    The consumers' weights are re-solved against the unpruned network's outputs, in addition to the paper's T (the README's
    table contains both). Residual streams are not pruned if there are other groups: all later layers read them, so removing
    their channels costs the most accuracy.
    """
    inner = any(not is_residual_stream(group) for group in start.groups)
    count = min(COMPARE_IMAGES, len(start.data.train))
    pruning = ChannelPruningOptions(method="budget", residual="keep" if inner else "exact", prune_batch_size=count)
    return decide(pruning, start, target, stage)


METHOD = Method("model-preserving ID", decide_in_one_shot, paper="Chee et al. 2022")
