"""Stages of the pipeline. Each writes a run folder, is skipped if that is finished, and resumes if it was interrupted.

prune      OUT/prune/model.safetensors   pruned weights are zero
quantize   OUT/share/model.safetensors   the remaining weights of a layer share a few values
encode     OUT/encode/model.dcz          the compressed file, see container.py

Each stage is a :class:`common.methods.Method`; :func:`common.pipeline.compress` saves and evaluates its network.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import pipeline
from common.atomic import write_json
from common.checkpoint import save_model
from common.data import DataBundle
from common.distributed import barrier, is_main
from common.errors import UserError
from common.formats import load_network
from common.methods import Decision, Method
from common.pipeline import FineTuning
from common.runs import LOG, MODEL, STATE, Stage, read_json
from common.target import Target
from common.trained_model import TrainedModel, read_trained_model
from common.training import Hooks, TrainOptions
from deep_compression.compressed import SizeReport, save_compressed
from deep_compression.compression_recipe import CompressionRecipe, PruningPlan, QuantizationPlan, masks_for_round
from deep_compression.pruning import (
    PruningMaskHook,
    layer_densities,
    layer_type,
    nonzero_masks,
    prunable_layers,
    prunable_weights,
    total_density,
)
from deep_compression.settings import PACKAGE, SUFFIX, EncodingOptions
from deep_compression.sharing import (
    CentroidTraining,
    SharedWeights,
    cluster_counts,
    create_clusterer,
    round_unshared,
    share_network,
)

ENCODED = f"model{SUFFIX}"
HISTORY = "rounds.json"
QUANTIZED = "share"  # folder of the stage quantize (weight sharing), and name of its training in the state for resuming
FOLDERS = {"prune": "prune", "quantize": QUANTIZED, "encode": "encode"}  # by stage
Factory = Callable[[], nn.Module] | None


def root_stage(out: Path | str, data: DataBundle, device: torch.device, seed: int = 0, force: bool = False) -> Stage:
    """Return the folder that holds a run folder of each stage; ``data`` are recorded in the config.json of all stages."""
    options = {"dataset": data.name, "seed": seed, "mean": data.mean, "std": data.std}
    return Stage(Path(out), PACKAGE, {"options": options}, seed=seed, device=device, force=force)


def compress(
    start: TrainedModel, stage: Stage, recipe: CompressionRecipe, *, latency: bool = False, **more: Any
) -> Path:
    """Prune, quantize and encode a trained network; only the last stage measures latency.

    Args:
        start: Trained network.
        stage: Folder of the run folders, see :func:`root_stage`.
        recipe: Plans and training of all stages.
        latency: Whether to measure the latency of the encoded network.
        more: ``tensorboard``, the folder for TensorBoard.

    Returns:
        The run folder of the encoded network.
    """
    pruned = prune(start, stage, recipe.pruning, recipe.pruning_training, **more)
    shared = quantize(pruned, stage, recipe.quantization, recipe.quantization_training, **more)
    return encode(shared, stage, recipe.encoding, latency=latency)


# ------------------------------------------------------------------------------------------------------------------- prune


def prune(
    start: TrainedModel,
    stage: Stage,
    plan: PruningPlan,
    training: TrainOptions,
    *,
    latency: bool = False,
    tensorboard: str | None = None,
    folder: Path | None = None,
) -> TrainedModel:
    """Prune and retrain in rounds; return the pruned network. `rounds.json` has density and accuracy after each round.

    folder: run folder, instead of OUT/prune.
    """
    part = _part(start, stage, "prune", {**asdict(plan), **asdict(training)}, folder)
    _log_variant(part, "prune", plan.differences)
    if stage.force and is_main():
        _clear_rounds(part.folder)
    barrier()
    training_stage = FineTuning(training, tensorboard=tensorboard)
    method = Method("prune", partial(_prune_in_rounds, plan, training_stage), save=save_checkpoint)
    pipeline.compress(method, start, None, part, latency=latency)
    if is_main():
        for file in part.folder.glob(f"round-*/{MODEL}"):
            file.unlink()
    return open_network(part.model_path, start)


def _prune_in_rounds(
    plan: PruningPlan, training: FineTuning, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    """Run the rounds that are not finished, each in its own folder."""
    model, history, rows = copy.deepcopy(start.model), [], []
    for number in range(len(plan.values)):
        place = replace(stage, folder=stage.folder / f"round-{number + 1:02d}")
        done = place.folder / "round.json"
        if not done.is_file():
            history.append(_prune_once(place, start, model, plan, number, training))
            if is_main():
                write_json(done, history[-1])
                (place.folder / STATE).unlink(missing_ok=True)
                (stage.folder / f"round-{number:02d}" / MODEL).unlink(missing_ok=True)
            barrier()
        else:
            history.append(read_json(done))
            if place.model_path.is_file():
                model.load_state_dict(load_network(place.model_path, start.factory).state_dict())
        rows += _read_log(place.folder / LOG, number + 1)
    if is_main():
        write_json(stage.folder / HISTORY, history)
    report = {"density": total_density(model), "densities": layer_densities(model), "network": str(start.file)}
    return Decision(model=model, report=report, log=rows)


def _prune_once(
    stage: Stage, start: TrainedModel, model: nn.Module, plan: PruningPlan, number: int, training: FineTuning
) -> dict[str, Any]:
    """Prune, retrain the remaining weights and save; return the round's entry of rounds.json."""
    masks = PruningMaskHook(model, masks_for_round(plan, number, prunable_weights(model, start.limits.layers)))
    recipe = training.recipe
    if plan.learning_rates:
        recipe = replace(recipe, learning_rate=plan.learning_rates[number])
    if plan.last_epochs is not None and number == len(plan.values) - 1:
        recipe = replace(recipe, epochs=plan.last_epochs)
    hooks = Hooks(after_step=masks)
    rows = pipeline.train(stage, start, model, replace(training, recipe=recipe), hooks, f"prune-{number + 1}")
    if is_main():
        save_checkpoint(stage.model_path, model, start)
    last = rows[-1] if rows else {}
    return {"round": number + 1, "value": plan.values[number], "density": total_density(model)} | {
        name: last.get(name) for name in ("train_top1", "test_top1")
    }


def _clear_rounds(folder: Path) -> None:
    for name in ("round.json", STATE, LOG, MODEL):
        for file in folder.glob(f"round-*/{name}"):
            file.unlink()


def _read_log(log: Path, number: int) -> list[dict[str, Any]]:
    """Read the rows of a round's log, with the round's number."""
    if not log.is_file():
        return []
    with open(log, newline="", encoding="utf-8") as file:
        return [{"round": number, **row} for row in csv.DictReader(file)]


# ---------------------------------------------------------------------------------------------------------------- quantize


def quantize(
    start: TrainedModel,
    stage: Stage,
    plan: QuantizationPlan,
    training: TrainOptions,
    *,
    latency: bool = False,
    tensorboard: str | None = None,
) -> TrainedModel:
    """Cluster the remaining weights, train the centroids and round unshared tensors; return the network with shared weights."""
    part = _part(start, stage, "quantize", {**asdict(plan), **asdict(training)})
    _log_variant(part, "quantize", plan.differences)
    training_stage = FineTuning(training, tensorboard=tensorboard)
    method = Method("quantize", partial(_share_and_train, plan, training_stage), save=save_checkpoint)
    pipeline.compress(method, start, None, part, latency=latency)
    return open_network(part.model_path, start)


def _share_and_train(
    plan: QuantizationPlan, training: FineTuning, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    excluded = start.limits.layers
    masks = nonzero_masks(start.model, excluded)
    model = copy.deepcopy(start.model).to(start.device)
    trained = CentroidTraining(model, _cluster(model, plan, stage.seed, excluded))
    before = round(start.measure(model).top1, 4)
    hooks = Hooks(after_backward=trained.after_backward, after_step=trained.after_step)
    rows = pipeline.train(stage, start, model, training, hooks, QUANTIZED)
    shared = trained.finish()
    if plan.rounding != "none":
        shared = round_unshared(model, shared, getattr(torch, plan.rounding), excluded)
    _check(model, masks, shared)
    clusters = {name: len(codes.centroids) for name, codes in shared.items()}
    return Decision(model=model, report={"clusters": clusters, "top1_before_training": before}, log=rows)


def _cluster(
    model: nn.Module, plan: QuantizationPlan, seed: int, excluded: Collection[str]
) -> dict[str, SharedWeights]:
    clusters = cluster_counts(model, {"conv": plan.conv_bits, "fc": plan.fc_bits}, plan.layer_bits, excluded)
    if plan.clusters is not None:
        clusters = dict.fromkeys(clusters, plan.clusters)
    biases = None if plan.bias_bits is None else 1 << plan.bias_bits
    cluster = create_clusterer(plan.method, plan.centroid_init, seed, plan.lloyd_steps)
    return share_network(model, clusters, cluster, biases)


def _check(model: nn.Module, masks: Mapping[str, torch.Tensor], shared: Mapping[str, SharedWeights]) -> None:
    """Check that pruned weights are zero and that every shared tensor is bit-identical to its codebook's values."""
    weights = prunable_weights(model)
    for name, weight in ((name, weights[name]) for name in masks):
        if bool((weight.cpu()[~masks[name]] != 0).any()):
            raise AssertionError(f"layer {name}: pruned weights are not zero after quantization")
    parameters = dict(model.named_parameters())
    for name, codes in shared.items():
        if not torch.equal(parameters[name].detach(), codes.to_dense().to(parameters[name].device)):
            raise AssertionError(f"{name}: values differ from those of the codebook")


# ------------------------------------------------------------------------------------------------------------------ encode


def encode(start: TrainedModel, stage: Stage, plan: EncodingOptions, *, latency: bool = False) -> Path:
    """Write the compressed file, reload it and evaluate the reloaded network; return the run folder."""
    part = _part(start, stage, "encode", {**asdict(plan), "index_bits": _plain_index_bits(plan)})
    _log_variant(part, "encode", plan.differences)
    reports: list[SizeReport] = []

    def write(path: Path, network: nn.Module, start: TrainedModel) -> None:
        reports.append(write_compressed(path, network, plan, start.factory))

    method = Method("encode", lambda *_: Decision(), axis="bytes", save=write, suffix=SUFFIX)
    pipeline.compress(
        method, start, None, part, latency=latency, details=lambda outcome: size_metrics(outcome.network, reports[0])
    )
    return part.folder


def _plain_index_bits(plan: EncodingOptions) -> int | list[int] | None:
    """Return the index bits as finished runs have recorded them: a number or, for the smallest file, None; else one number per type."""
    conv, fc = plan.index_bits_by_type().values()
    return conv if conv == fc else list(plan.index_bits)


def write_compressed(path: Path | str, model: nn.Module, plan: EncodingOptions, factory: Factory = None) -> SizeReport:
    """Call :func:`save_compressed` with the index bits of each layer's type, and raise UserError instead of ValueError."""
    by_type = plan.index_bits_by_type()
    bits = {
        f"{name}.weight".lstrip("."): by_type[layer_type(module)] for name, module in prunable_layers(model).items()
    }
    try:
        return save_compressed(
            path,
            model,
            factory=factory,
            index_bits={name: width for name, width in bits.items() if width},
            order=plan.order,
            coder=plan.coder,
        )
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def size_metrics(model: nn.Module, report: SizeReport) -> dict[str, Any]:
    """Return compression ratios (float32 bytes of the dense weights, and of the state dict, over the file's bytes) and sizes."""
    weights = 4 * sum(weight.numel() for weight in prunable_weights(model).values())
    return {
        "weight_bytes": weights,
        "rate": round(weights / report.bytes, 4),
        "rate_of_state": round(report.dense_bytes / report.bytes, 4),
        "file": report.by_category,
    }


# ------------------------------------------------------------------------------------------------------------------ common


def save_checkpoint(path: Path, model: nn.Module, start: TrainedModel) -> None:
    """Write a checkpoint with the network's own header and nothing else, since the compressed file stores it too."""
    save_model(path, model, factory=start.factory)


def _part(
    start: TrainedModel, stage: Stage, name: str, options: Mapping[str, Any], folder: Path | None = None
) -> Stage:
    """Open the run folder of a stage with its options."""
    data, digest = start.data, start.file_digest
    arch = getattr(start.model, "architecture", {"arch": None})["arch"]  # a user's own network may have none
    about = {"dataset": data.name, "seed": stage.seed, "mean": data.mean, "std": data.std}
    about |= {key: value for key, value in stage.config["options"].items() if key in about}
    options = {"stage": name, "arch": arch, **about, "network_digest": digest, **options}
    return stage.substage(FOLDERS[name], options, package=PACKAGE, fingerprint=data.fingerprint, folder=folder)


def _log_variant(part: Stage, name: str, differences: Sequence[str]) -> None:
    """Print whether a stage that is not finished is the paper's, or how it differs."""
    if is_main() and not part.finished:
        variant = f"extended, differs from the paper: {', '.join(differences)}" if differences else "the paper's method"
        part.log(f"{name}: {variant}")


def open_network(file: Path, start: TrainedModel) -> TrainedModel:
    """Read a network that was derived from ``start``, with the same reference (dense) network."""
    return read_trained_model(
        file,
        start.data,
        name=start.name,
        factory=start.factory,
        device=start.device,
        workers=start.workers,
        reference=start.reference or start,
        limits=start.limits,
    )
