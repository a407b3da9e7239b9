"""Pipeline of all compression methods: a method returns a decision; this module prunes, trains, saves and measures.

compress(method, start, target, stage, training):

start: TrainedModel ─► method.decide ─► Decision ─► apply_decision ─► train ─► method.save ─► reload, measure ─► metrics.json
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
from common.cost import count_cost
from common.distributed import barrier, is_main
from common.formats import load_network
from common.latency_target.meet import decide_for_latency
from common.log import Log, epoch_logger
from common.measure import Accuracy, OutputQuality, measure_latency
from common.methods import Decision, Method
from common.options import LATENCY_SECONDS_OF_A_RESULT
from common.progress import phase
from common.runs import DECISION, LOG, METRICS, Stage
from common.target import Target
from common.tied import check_tied, tied_parameters
from common.trained_model import TrainedModel, report_chance_level
from common.training import Hooks, TrainOptions, distillation_loss, fit, mean_loss
from common.training.loop import check_tensorboard

RECALIBRATION_BATCH = 250  # images


@dataclass(frozen=True)
class FineTuning:
    """Training of a pruned network, the same for all methods.

    Attributes:
        recipe: Training options; with 0 epochs the pruned network is not trained.
        distill: Weight of the distillation loss (distance to the dense network's outputs); the rest is cross-entropy.
        recalibrate: Number of training images for batch-norm recalibration after pruning, if the method does not
            provide any.
        log_test: Whether to evaluate the test set for the log.
        tensorboard: Folder for TensorBoard. Raises UserError if the library is not installed.
        loss: (outputs, targets) -> mean loss of a batch, for a network that is not a classifier; None: cross-entropy.
    """

    recipe: TrainOptions
    distill: float = 0.0
    recalibrate: int = 0
    log_test: bool = True
    tensorboard: str | None = None
    loss: Callable[[Any, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        check_tensorboard(self.tensorboard)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a compression, from which a command adds its own entries to metrics.json.

    Attributes:
        start: The network that was compressed.
        decision: The method's decision.
        network: The compressed network, reloaded from its file.
        accuracy: Accuracy of the compressed network, or its quality by the user's metric.
        metrics: Entries ``baseline``, ``after_cut`` (after pruning, before fine-tuning) and ``compressed`` of
            metrics.json.
        log: One row per epoch.
    """

    start: TrainedModel
    decision: Decision
    network: nn.Module
    accuracy: Accuracy | OutputQuality
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
    accept_missed: bool = False,
    snap: bool = True,
    details: Callable[[Outcome], Mapping[str, Any]] = lambda outcome: {},
) -> dict[str, Any]:
    """Compress a network in a run folder and return its metrics. A finished run is read, an interrupted one resumes.

    Args:
        target: None if the method has no target, or its own options determine how much is kept.
        training: Fine-tuning; None for no training. Ignored for methods that are not tuned (:attr:`common.methods.Method.is_tuned`).
        latency: Whether to measure the latency of both networks (interleaved).
        accept_missed: Whether to finish a network that misses the target, because the caller reports it.
        snap: Whether widths for a latency target are multiples of what is fast on this machine.
        details: Function that returns further entries of metrics.json.

    Raises:
        UserError: If the method cannot reach the target, or its network misses it.
    """
    if stage.finished:
        if is_main():
            stage.log(f"{stage.folder.name} is finished: {stage.folder / METRICS}")
        return stage.metrics()
    report_chance_level(start.reference or start)
    if target is not None and method.axis == "macs":
        target.require_groups(start.groups, start.all_groups)
        if start.limits and target.axis == "macs":
            start.limits.require_reachable(target, start.all_groups, start.cost)
    network: nn.Module | None = None
    with phase("prune"):
        if target is not None and target.axis == "latency":
            met = decide_for_latency(method.decide, build_network, start, target, stage, snap)
            start, network = met.start, met.network
            decision = replace(met.decision, report={**met.decision.report, "latency_target": met.report})
        else:
            decision = method.decide(start, target, stage)
        if decision.trained is not None:
            decision, network = replace(decision, model=decision.trained(), trained=None), None
        if training and training.recalibrate and method.is_tuned and not decision.recalibrate:
            decision = replace(decision, recalibrate=recalibration_images(start, training.recalibrate, stage.seed))
        if is_main():
            kept = {name: [int(channel) for channel in channels] for name, channels in decision.kept.items()}
            write_json(stage.folder / DECISION, {"kept": kept, "report": decision.report})
        network, checked = apply_decision(start, decision, network), None if accept_missed else target
        if checked is not None and checked.axis == "macs":  # before the fine-tuning, which does not change the MACs
            _check_target(checked, start, decision, {"macs": count_cost(network, start.data.input_shape).macs})
        tuning = training if training and training.recipe.epochs and method.is_tuned else None
        pruned = start.metrics(network, start.quality_of(network)) if tuning and is_main() else None
    rows = []
    if tuning:
        with phase("fine-tune"):
            rows = train(stage, start, network, tuning)
    with phase("measure"):
        if is_main():
            if not rows:
                write_csv(stage.folder / LOG, list(decision.log))
            file = stage.folder / f"model{method.suffix}"
            method.save(file, network, start)
            outcome = _measure_outcome(start, decision, rows, file, pruned, latency)
            if (
                start.limits and method.axis is not None
            ):  # otherwise nothing was pruned, and the file has no layers to check
                start.limits.check_network(start.model, outcome.network, start.all_groups)
            if checked is not None and checked.axis != "latency":
                _check_target(checked, start, decision, outcome.metrics["compressed"], stage.log)
            stage.finish({**outcome.metrics, **decision.report, "file": file.name, **details(outcome)})
        barrier()
    return stage.metrics()


def _check_target(
    target: Target, start: TrainedModel, decision: Decision, measured: Mapping[str, Any], log: Log | None = None
) -> None:
    """Check a network with these metrics against the target, a fraction of the starting network.

    Raises UserError if it misses the target, unless it is smaller and the decision explains why.
    """
    full = start.bytes if target.axis == "bytes" else count_cost(start.model, start.data.input_shape).macs
    fraction = measured[target.axis] / full
    if decision.smaller and fraction < target.min_fraction:
        if log is not None:
            log(f"{fraction:.4f} of the {target.axis} for a target of {target.fraction:g}: {decision.smaller}")
        return
    target.check(fraction)


def apply_decision(start: TrainedModel, decision: Decision, network: nn.Module | None = None) -> nn.Module:
    """Prune a network as decided, recalibrate its batch norm, and return it in eval mode.

    Args:
        network: What :func:`build_network` has returned for the decision, if it was called.
    """
    network = build_network(start, decision) if network is None else network
    if decision.recalibrate:
        recalibrate_batch_norm(network, decision.recalibrate, start.device)
    return network.eval()


def build_network(start: TrainedModel, decision: Decision) -> nn.Module:
    """Prune a network as decided, and return it in eval mode, without recalibration.

    Raises UserError, naming the group, if the decision violates ``start.limits`` or would untie weights.
    """
    model = start.model if decision.model is None else decision.model
    if decision.kept:
        start.limits.check(decision.kept, start.all_groups)
        example = next(recalibration_images(start, 2, seed=0), start.example)  # real images: the check is stricter
        example = example.to(next(model.parameters()).device)
        smaller = keep_channels(model, example, decision.kept, groups=start.groups_of(model))
        network = restore_shortcuts(smaller, start.model)
    else:
        network = copy.deepcopy(start.model) if decision.model is None else decision.model
    check_tied(network, tied_parameters(start.model))
    return network.eval()


def recalibration_images(start: TrainedModel, count: int, seed: int) -> Iterator[Tensor]:
    """Sample ``count`` training images by ``seed`` and yield them in batches (N, C, H, W), without augmentation."""
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
    """Train a network in place, in a stage's folder, and return the rows of its log.

    Args:
        hooks: Hooks of the training loop; default: those for fine-tuning.
        name: Name of this training in the state for resuming and in TensorBoard.
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
        hooks=hooks or fine_tuning_hooks(stage, start, training),
    )


def fine_tuning_hooks(stage: Stage, start: TrainedModel, training: FineTuning) -> Hooks:
    """Return the hooks for fine-tuning: distillation, if requested, and a log line per epoch."""
    loss: Any = None
    recipe = training.recipe
    if training.loss is not None:
        loss = mean_loss(training.loss)
    elif training.distill:
        loss = distillation_loss((start.reference or start).copy(), training.distill, recipe.label_smoothing)
    return Hooks(loss=loss, after_epoch=epoch_logger(stage.folder.name, recipe.epochs, stage.log))


def _measure_outcome(
    start: TrainedModel,
    decision: Decision,
    rows: list[dict[str, Any]],
    file: Path,
    pruned: dict[str, Any] | None,
    latency: bool,
) -> Outcome:
    """Reload the network from its file and measure it. pruned: metrics before fine-tuning, or None if not fine-tuned."""
    dense, network, size = start.reference or start, load_network(file, start.factory), file.stat().st_size
    accuracy = start.quality_of(network)
    baseline, compressed = dense.metrics(), start.metrics(network, accuracy, size)
    pruned = dict(compressed) if pruned is None else pruned | {"bytes": size}
    relative = {}
    if latency:
        timed = measure_latency(
            {"baseline": dense.copy(), "compressed": network},
            start.data.input_shape,
            device=start.device,
            seconds=LATENCY_SECONDS_OF_A_RESULT,
        )
        baseline["latency_ms"], compressed["latency_ms"] = map(timed.milliseconds, ("baseline", "compressed"))
        relative = {"latency": timed.record("compressed")}
    metrics = {"baseline": baseline, "after_cut": pruned, "compressed": compressed, **relative}
    return Outcome(start, decision, network, accuracy, metrics, rows)
