"""The way of every compressed network: a method decides; pruning, training, saving, measuring are done here, once for all.

compress(method, start, target, stage, training)

start: TrainedModel ─► method.decide ─► Decision ─► apply_decision ─► train ─► method.save ─► read back, measure ─► metrics.json
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.atomic import write_csv, write_json
from common.batchnorm import recalibrate_batch_norm
from common.channels import keep_channels
from common.channels.shortcuts import restore_shortcuts
from common.distributed import barrier, is_main
from common.formats import load_network
from common.log import epoch_logger
from common.measure import Accuracy, measure_latency
from common.methods import Decision, Method
from common.runs import DECISION, LOG, METRICS, Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import Hooks, TrainOptions, distillation_loss, fit

RECALIBRATION_BATCH = 250  # images


@dataclass(frozen=True)
class FineTuning:
    """How a pruned network is trained, the same way for every method.

    Attributes:
        recipe: No epochs leave it as it was pruned.
        distill: Weight of the distance to the dense network's outputs in the loss; the rest is cross-entropy.
        recalibrate: Training images that batch norm is recalibrated on after pruning, where the method says nothing of it.
        log_test: Whether the test set is evaluated for the log.
        tensorboard: Folder for TensorBoard.
    """

    recipe: TrainOptions
    distill: float = 0.0
    recalibrate: int = 0
    log_test: bool = True
    tensorboard: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out, for a command's own entries in metrics.json.

    Attributes:
        network: The compressed network as it was read back.
        accuracy: Its accuracy.
        metrics: baseline, after_cut and compressed of metrics.json.
        log: A row per epoch.
    """

    start: TrainedModel
    decision: Decision
    network: nn.Module
    accuracy: Accuracy
    metrics: Mapping[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)


def compress(
    method: Method,
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    training: FineTuning | None = None,
    *,
    latency: bool = True,
    details: Callable[[Outcome], Mapping[str, Any]] = lambda outcome: {},
) -> dict[str, Any]:
    """Compress a network in a run folder: the run's metrics. A finished run is only read, an interrupted one resumes.

    Args:
        target: None where the method's own options decide how much stays.
        training: None, or a method on the axis of bytes: nothing is trained.
        latency: Whether it is measured, of both networks in turns.
        details: More entries of metrics.json.

    Raises:
        UserError: If the target is out of the method's reach.
    """
    if stage.finished:
        if is_main():
            stage.log(f"{stage.folder.name} is finished: {stage.folder / METRICS}")
        return stage.metrics()
    decision = method.decide(start, target, stage)
    if training and training.recalibrate and method.axis != "bytes" and not decision.recalibrate:
        decision = replace(decision, recalibrate=images_for_recalibration(start, training.recalibrate, stage.seed))
    if is_main():
        kept = {name: [int(channel) for channel in channels] for name, channels in decision.kept.items()}
        write_json(stage.folder / DECISION, {"kept": kept, "report": decision.report})
    network = apply_decision(start, decision)
    tuning = training if training and training.recipe.epochs and method.axis != "bytes" else None
    after_cut = start.metrics(network, start.measure(network)) if tuning and is_main() else None
    rows = train(stage, start, network, tuning) if tuning else []
    if is_main():
        if not rows:
            write_csv(stage.folder / LOG, list(decision.log))
        file = stage.folder / f"model{method.suffix}"
        method.save(file, network, start)
        outcome = _measured(start, decision, rows, file, after_cut, latency)
        stage.finish({**outcome.metrics, **decision.report, "file": file.name, **details(outcome)})
    barrier()
    return stage.metrics()


def apply_decision(start: TrainedModel, decision: Decision) -> nn.Module:
    """The network that was decided on, in eval mode. Raises UserError for a decision beyond the limits."""
    model = start.model if decision.model is None else decision.model
    if decision.kept:
        start.limits.check(decision.kept, start.all_groups)
        example = start.example.to(next(model.parameters()).device)
        network = restore_shortcuts(keep_channels(model, example, decision.kept), start.model)
    else:
        network = copy.deepcopy(start.model) if decision.model is None else decision.model
    if decision.recalibrate:
        recalibrate_batch_norm(network, decision.recalibrate, start.device)
    return network.eval()


def images_for_recalibration(start: TrainedModel, count: int, seed: int) -> Iterator[Tensor]:
    """Batches (N, C, H, W) of training images as they are, without augmentation, drawn by the seed."""
    train, generator = start.data.train, torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[: min(count, len(train))]
    for batch in train.subset(chosen).batches(
        RECALIBRATION_BATCH, device=start.device, workers=start.workers, channels_last=True, min_part=2
    ):
        yield batch.images


def train(
    stage: Stage,
    start: TrainedModel,
    network: nn.Module,
    training: FineTuning,
    hooks: Hooks | None = None,
    name: str = "fine-tune",
) -> list[dict[str, Any]]:
    """Train a network in place in a stage's folder: the rows of its log.

    hooks: instead of those for fine-tuning. name: of this training, in the state for resuming and in TensorBoard.
    """
    recipe, data = training.recipe, start.data
    return fit(
        network,
        data.train,
        recipe,
        folder=stage.folder,
        test=data.test if training.log_test else None,
        device=start.device,
        seed=stage.seed,
        workers=start.workers,
        tensorboard=training.tensorboard,
        stage=name,
        hooks=hooks or fine_tuning(stage, start, training),
    )


def fine_tuning(stage: Stage, start: TrainedModel, training: FineTuning) -> Hooks:
    """How fine-tuning joins the loop: distillation if it is asked for, and a line for every epoch."""
    loss, recipe = None, training.recipe
    if training.distill:
        loss = distillation_loss((start.reference or start).copy(), training.distill, recipe.label_smoothing)
    return Hooks(loss=loss, after_epoch=epoch_logger(stage.folder.name, recipe.epochs, stage.log))


def _measured(
    start: TrainedModel,
    decision: Decision,
    rows: list[dict[str, Any]],
    file: Path,
    after_cut: dict[str, Any] | None,
    latency: bool,
) -> Outcome:
    """The entries of metrics.json, of the network as it is read back from its file."""
    dense, network, size = start.reference or start, load_network(file, start.factory), file.stat().st_size
    accuracy = start.measure(network)
    baseline, compressed = dense.metrics(), start.metrics(network, accuracy, size)
    after_cut = dict(compressed) if after_cut is None else after_cut | {"bytes": size}
    if latency:
        timed = measure_latency(
            {"baseline": dense.copy(), "compressed": network}, start.data.input_shape, device=start.device
        )
        baseline["latency_ms"], compressed["latency_ms"] = timed["baseline"], timed["compressed"]
    metrics = {"baseline": baseline, "after_cut": after_cut, "compressed": compressed}
    return Outcome(start, decision, network, accuracy, metrics, rows)
