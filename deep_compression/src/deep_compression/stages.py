"""The stages of the pipeline. Each leaves a run folder, is skipped where that is finished, and resumes where it was killed.

prune    STAGE/prune/model.safetensors   pruned weights are zero
share    STAGE/share/model.safetensors   the remaining weights of a layer have few values
encode   STAGE/encode/model.dcz          the file of container.py

Each is a method that decides on a network; :func:`common.pipeline.compress` saves and measures it.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping
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
from deep_compression.compressed import Account, save_compressed
from deep_compression.plan import PrunePlan, Recipe, SharePlan, decide
from deep_compression.pruning import Held, densities, living_masks, prunable_weights, total_density
from deep_compression.settings import PACKAGE, SUFFIX, Encoding
from deep_compression.sharing import Codes, SharedTraining, clusterer, clusters_for, round_rest, share_network

ENCODED = f"model{SUFFIX}"
HISTORY = "rounds.json"
Factory = Callable[[], nn.Module] | None


def chain(out: Path | str, data: DataBundle, device: torch.device, seed: int = 0, force: bool = False) -> Stage:
    """The folder that gets a run folder for each stage, and is none itself. data: as read, for every stage's config.json."""
    options = {"dataset": data.name, "seed": seed, "mean": data.mean, "std": data.std}
    return Stage(Path(out), PACKAGE, {"options": options}, seed=seed, device=device, force=force)


def compress(start: TrainedModel, stage: Stage, recipe: Recipe, *, latency: bool = False, **more: Any) -> Path:
    """Prune, share and encode a trained network: the folder of the last stage, the only one that measures latency.

    more: ``tensorboard``.
    """
    pruned = prune(start, stage, recipe.prune, recipe.prune_training, **more)
    shared = share(pruned, stage, recipe.share, recipe.share_training, **more)
    return encode(shared, stage, recipe.encode, latency=latency)


# ------------------------------------------------------------------------------------------------------------------- prune


def prune(
    start: TrainedModel,
    stage: Stage,
    plan: PrunePlan,
    training: TrainOptions,
    *,
    latency: bool = False,
    tensorboard: str | None = None,
    folder: Path | None = None,
) -> TrainedModel:
    """Rounds of pruning and training; the pruned network. `rounds.json` holds density and accuracy after each.

    folder: instead of STAGE/prune.
    """
    part = _part(start, stage, "prune", {**asdict(plan), **asdict(training)}, folder)
    if stage.force and is_main():
        _clear_rounds(part.folder)
    barrier()
    method = Method("prune", partial(_pruned, plan, FineTuning(training, tensorboard=tensorboard)), save=save)
    pipeline.compress(method, start, None, part, latency=latency)
    if is_main():
        for file in part.folder.glob(f"round-*/{MODEL}"):
            file.unlink()
    return opened(part.model_path, start)


def _pruned(
    plan: PrunePlan, training: FineTuning, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    """All rounds that are not done yet, each in a folder of its own."""
    model, history, rows = copy.deepcopy(start.model), [], []
    for number in range(len(plan.values)):
        place = replace(stage, folder=stage.folder / f"round-{number + 1:02d}")
        done = place.folder / "round.json"
        if not done.is_file():
            history.append(_round(place, start, model, plan, number, training))
            if is_main():
                write_json(done, history[-1])
                (place.folder / STATE).unlink(missing_ok=True)
                (stage.folder / f"round-{number:02d}" / MODEL).unlink(missing_ok=True)
            barrier()
        else:
            history.append(read_json(done))
            if place.model_path.is_file():
                model.load_state_dict(load_network(place.model_path, start.factory).state_dict())
        rows += _logged(place.folder / LOG, number + 1)
    if is_main():
        write_json(stage.folder / HISTORY, history)
    report = {"density": total_density(model), "densities": densities(model), "network": str(start.file)}
    return Decision(model=model, report=report, log=rows)


def _round(
    stage: Stage, start: TrainedModel, model: nn.Module, plan: PrunePlan, number: int, training: FineTuning
) -> dict[str, Any]:
    """Prune, train the remaining weights, save."""
    held = Held(model, decide(plan, number, prunable_weights(model)))
    recipe = training.recipe
    if plan.learning_rates:
        recipe = replace(recipe, learning_rate=plan.learning_rates[number])
    if plan.last_epochs is not None and number == len(plan.values) - 1:
        recipe = replace(recipe, epochs=plan.last_epochs)
    hooks = Hooks(after_step=held)
    rows = pipeline.train(stage, start, model, replace(training, recipe=recipe), hooks, f"prune-{number + 1}")
    if is_main():
        save(stage.model_path, model, start)
    last = rows[-1] if rows else {}
    return {"round": number + 1, "value": plan.values[number], "density": total_density(model)} | {
        name: last.get(name) for name in ("train_top1", "test_top1")
    }


def _clear_rounds(folder: Path) -> None:
    for name in ("round.json", STATE, LOG, MODEL):
        for file in folder.glob(f"round-*/{name}"):
            file.unlink()


def _logged(log: Path, number: int) -> list[dict[str, Any]]:
    if not log.is_file():
        return []
    with open(log, newline="", encoding="utf-8") as file:
        return [{"round": number, **row} for row in csv.DictReader(file)]


# ------------------------------------------------------------------------------------------------------------------- share


def share(
    start: TrainedModel,
    stage: Stage,
    plan: SharePlan,
    training: TrainOptions,
    *,
    latency: bool = False,
    tensorboard: str | None = None,
) -> TrainedModel:
    """Cluster the remaining weights, train the centroids, round the rest; the network with shared weights."""
    part = _part(start, stage, "share", {**asdict(plan), **asdict(training)})
    method = Method("share", partial(_shared, plan, FineTuning(training, tensorboard=tensorboard)), save=save)
    pipeline.compress(method, start, None, part, latency=latency)
    return opened(part.model_path, start)


def _shared(
    plan: SharePlan, training: FineTuning, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    masks = living_masks(start.model)
    model = copy.deepcopy(start.model).to(start.device)
    trained = SharedTraining(model, _clustered(model, plan, stage.seed))
    before = round(start.measure(model).top1, 4)
    hooks = Hooks(after_backward=trained.after_backward, after_step=trained.after_step)
    rows = pipeline.train(stage, start, model, training, hooks, "share")
    shared = trained.finish()
    if plan.rounding != "none":
        shared = round_rest(model, shared, getattr(torch, plan.rounding))
    _check(model, masks, shared)
    clusters = {name: len(codes.centroids) for name, codes in shared.items()}
    return Decision(model=model, report={"clusters": clusters, "top1_before_training": before}, log=rows)


def _clustered(model: nn.Module, plan: SharePlan, seed: int) -> dict[str, Codes]:
    clusters = clusters_for(model, {"conv": plan.conv_bits, "fc": plan.fc_bits}, plan.layer_bits)
    if plan.clusters is not None:
        clusters = dict.fromkeys(clusters, plan.clusters)
    biases = None if plan.bias_bits is None else 1 << plan.bias_bits
    return share_network(model, clusters, clusterer(plan.method, plan.init, seed, plan.lloyd_steps), biases)


def _check(model: nn.Module, masks: Mapping[str, torch.Tensor], shared: Mapping[str, Codes]) -> None:
    """No pruned weight has come back, and every shared tensor is bit-identical to what its codes say."""
    for name, weight in prunable_weights(model).items():
        if bool((weight.cpu()[~masks[name]] != 0).any()):
            raise AssertionError(f"layer {name}: pruned weights are not zero after sharing")
    parameters = dict(model.named_parameters())
    for name, codes in shared.items():
        if not torch.equal(parameters[name].detach(), codes.dense().to(parameters[name].device)):
            raise AssertionError(f"{name} does not have the values of its codebook")


# ------------------------------------------------------------------------------------------------------------------ encode


def encode(start: TrainedModel, stage: Stage, plan: Encoding, *, latency: bool = False) -> Path:
    """Write the compressed file, read it back, measure that; the run folder."""
    part = _part(start, stage, "encode", asdict(plan))
    accounts: list[Account] = []

    def write(path: Path, network: nn.Module, start: TrainedModel) -> None:
        accounts.append(write_file(path, network, plan, start.factory))

    method = Method("encode", lambda *_: Decision(), axis="bytes", save=write, suffix=SUFFIX)
    pipeline.compress(
        method, start, None, part, latency=latency, details=lambda outcome: sizes(outcome.network, accounts[0])
    )
    return part.folder


def write_file(path: Path | str, model: nn.Module, plan: Encoding, factory: Factory = None) -> Account:
    """`save_compressed` for commands. Raises UserError."""
    try:
        return save_compressed(
            path, model, factory=factory, index_bits=plan.index_bits, order=plan.order, coder=plan.coder
        )
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def sizes(model: nn.Module, account: Account) -> dict[str, Any]:
    """The compression ratios of a file: dense float32 bytes of the weights, and of the whole state, over the file's bytes."""
    weights = 4 * sum(weight.numel() for weight in prunable_weights(model).values())
    return {
        "weight_bytes": weights,
        "rate": round(weights / account.bytes, 4),
        "rate_of_state": round(account.dense_bytes / account.bytes, 4),
        "file": account.by_category,
    }


# ------------------------------------------------------------------------------------------------------------------ common


def save(path: Path, model: nn.Module, start: TrainedModel) -> None:
    """Write a checkpoint with the header that the network came with: it says no more than before, which takes room in a file."""
    save_model(path, model, factory=start.factory)


def _part(
    start: TrainedModel, stage: Stage, name: str, options: Mapping[str, Any], folder: Path | None = None
) -> Stage:
    data, digest = start.data, start.file_digest
    arch = getattr(start.model, "architecture", {"arch": None})["arch"]  # of a user's own network too, if it has one
    about = {"dataset": data.name, "seed": stage.seed, "mean": data.mean, "std": data.std}
    about |= {key: value for key, value in stage.config["options"].items() if key in about}
    options = {"stage": name, "arch": arch, **about, "network_digest": digest, **options}
    return stage.part(name, options, package=PACKAGE, fingerprint=data.fingerprint, folder=folder)


def opened(file: Path, start: TrainedModel) -> TrainedModel:
    """The network of a file that was made from ``start``, held against the same dense network."""
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
