"""The paper and its extension as methods: from a trained network to kept channels and folded consumers, without labels."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.atomic import write_json
from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import CALIBRATION_IMAGES, TrainedModel
from model_preserving_id.activations import gather_statistics
from model_preserving_id.calibration import CalibrationImages, calibration_images
from model_preserving_id.channel_ranking import rank_groups
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, LogRow, iterate
from model_preserving_id.prune import prune_one_shot
from model_preserving_id.residual import is_residual_stream
from model_preserving_id.settings import ChannelPruningOptions

STEPS = "steps.pt"  # in the shared folder: the steps of iditer that do not depend on the target
SENSITIVITY = "sensitivity.json"  # {group: {width: change of the outputs}}, if it was measured
# Time of the variants per layer, in training steps of an example: about that of ResNet-20, and similar for all data sets.
ITERATIVE, ONE_SHOT = 400.0, 150.0

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
        pruning.prune_batch_size,
        stage.seed,
        without_class=pruning.without_class,
        batch_size=pruning.forward_blocksize,
        device=start.device,
        workers=start.workers,
    )
    differing = ", ".join(pruning.differences)
    variant = f"extended, differs from the paper: {differing}" if differing else "the paper's method"
    stage.log(f"{start.name} on {data.name}: {pruning.label} with {len(images.image_set)} images; {variant}")
    began, cpu = time.monotonic(), time.process_time()
    folded = FoldedNetwork(
        start.model,
        start.example,
        residual=pruning.residual,
        limits=start.limits,
        device=start.device,
        target_cost=start.cost_of(target) if target is not None and target.axis == "latency" else None,
        known_groups=start.all_groups,
    )
    # Other steps than those of this call are of interrupted calls, and of runs with other targets.
    taken: list[LogRow] = []

    def after_step(folded: FoldedNetwork, row: LogRow) -> None:
        taken.append(row)
        if on_step:
            on_step(folded, row)

    rows = _prune_groups(folded, images, pruning, target, stage, after_step)
    earlier = rows[: len(rows) - len(taken)]
    if folded.sensitivity:
        write_json(stage.folder / SENSITIVITY, folded.sensitivity)
    compensate(folded, images, pruning.reconstruction, count=pruning.reconstruction_images)
    report = {
        "images": len(images.image_set),
        "picks": len(rows),
        "pruning_seconds": round(time.monotonic() - began + sum(row["seconds"] for row in earlier), 1),
        "pruning_cpu_seconds": round(time.process_time() - cpu + sum(row["cpu_seconds"] for row in earlier), 1),
    }
    return folded.decision(recalibrate=images if pruning.recalibrate_bn else (), report=report, log=rows)


def _prune_groups(
    folded: FoldedNetwork,
    images: CalibrationImages,
    pruning: ChannelPruningOptions,
    target: Target | None,
    stage: Stage,
    on_step: OnStep,
) -> list[LogRow]:
    """Prune the groups, in place, and return one row per step of ``iditer``; no rows for the other methods."""
    if pruning.method == "iditer":
        assert target is not None
        options = IterationOptions(target, pruning.k, pruning.update_every, pruning.criterion)
        shared = stage.shared / STEPS if stage.shared else None
        return iterate(folded, images, options, state=stage.progress, shared=shared, on_step=on_step)
    criterion = {"budget": {"target": target}, "frac": {"keep": pruning.k}, "eps": {"eps": pruning.eps}}[pruning.method]
    prune_one_shot(
        folded,
        images,
        **criterion,  # type: ignore[arg-type]
        score=pruning.criterion,
        selection=pruning.channel_selection,
        shared=stage.shared / SENSITIVITY if stage.shared else None,
    )
    return []


def rank_channels(start: TrainedModel, seed: int) -> dict[str, Tensor]:
    """Return scores (C,) of every group's channels by the order of its interpolative decomposition: the first has the largest."""
    images = calibration_images(
        start.data,
        min(start.calibration_images, len(start.data.train)),
        seed,
        device=start.device,
        workers=start.workers,
    )
    folded = FoldedNetwork(
        start.model, start.example, limits=start.limits, device=start.device, known_groups=start.all_groups
    )
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), images, device=folded.device)
    orders = {name: one.order for name, one in rank_groups(folded, statistics).items()}
    return {name: -torch.from_numpy(order.argsort()).double() for name, order in orders.items()}


def decide_iteratively(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Prune with ``--method iditer`` and the paper's settings, as ``compare`` calls it; residual streams are not pruned."""
    return decide(_settings("iditer", start), start, target, stage)


def decide_in_one_shot(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Prune with ``--method budget``, as ``compare`` calls it: measured widths, re-solved weights.

    Residual streams are not pruned if there are other groups: all later layers read them, so removing their channels costs the
    most accuracy.
    """
    inner = any(not is_residual_stream(group) for group in start.groups)
    return decide(_settings("budget", start, residual="keep" if inner else "exact"), start, target, stage)


def _settings(method: str, start: TrainedModel, **more: Any) -> ChannelPruningOptions:
    return ChannelPruningOptions(
        method=method, prune_batch_size=min(start.calibration_images, len(start.data.train)), **more
    )


METHOD = Method(
    "model-preserving ID (paper)",
    decide_iteratively,
    paper="Chee et al. 2022",
    note=f"score |r_k+1| / |r_11| per MAC (the authors' code for CIFAR-10: singular values); {CALIBRATION_IMAGES} calibration images (original"
    " README: 5000);"
    " the last steps are smaller, to meet the target",
    variant="paper",
    examples=lambda recipe, images, layers: ITERATIVE * layers,
    scores=rank_channels,
)
EXTENDED = Method(
    "model-preserving ID (extended)",
    decide_in_one_shot,
    paper="Chee et al. 2022",
    note="differs from the paper: one pass, channels selected by the outputs of the layers that read them, widths by the measured change"
    " of the outputs, weights re-solved by least squares",
    variant="extended",
    default=False,
    examples=lambda recipe, images, layers: ONE_SHOT * layers,
    scores=rank_channels,
)
