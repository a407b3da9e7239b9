"""The stages of the pipeline. Each leaves a run folder, is skipped where that is finished, and goes on where it was killed.

prune    FOLDER/model.safetensors   dead weights are zero
share    FOLDER/model.safetensors   living weights of a layer have few values
encode   FOLDER/model.dcz           the file of container.py
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import write_csv, write_json
from common.checkpoint import save_model
from common.data import DataBundle
from common.distributed import barrier, is_main
from common.errors import UserError
from common.measure import evaluate, latency_ms, require_fit, side, test_images
from common.runs import LOG, STATE, Stage, open_stage, read_json
from common.training import Hooks, TrainOptions, fit
from deep_compression.compressed import Account, save_compressed
from deep_compression.network_file import file_digest, read_network
from deep_compression.plan import PrunePlan, Recipe, SharePlan, decide
from deep_compression.pruning import Held, densities, living_masks, prunable_weights, total_density
from deep_compression.settings import PACKAGE, Encoding
from deep_compression.sharing import Codes, SharedTraining, clusterer, clusters_for, round_rest, share_network

ENCODED = "model.dcz"
HISTORY = "rounds.json"
Factory = Callable[[], nn.Module] | None


@dataclass(frozen=True)
class Setting:
    """What all stages of a chain have in common.

    baseline: the dense network's file, the reference of accuracy and size. label: what the run is called in tables.
    """

    data: DataBundle
    device: torch.device
    seed: int = 0
    workers: int = 2
    baseline: Path | None = None
    factory: Factory = None
    latency: bool = True
    force: bool = False
    tensorboard: str | None = None
    label: str | None = None


def compress(network: Path | str, out: Path | str, recipe: Recipe, setting: Setting) -> Path:
    """Prune, share and encode a trained network (any file of one): the folder of the last stage.

    The folders are OUT/prune, OUT/share and OUT/encode.
    """
    out, network = Path(out), Path(network)
    setting = replace(setting, baseline=setting.baseline or network)
    between = replace(setting, latency=False)  # the last stage measures it
    prune(network, out / "prune", recipe.prune, recipe.prune_training, between)
    share(out / "prune" / "model.safetensors", out / "share", recipe.share, recipe.share_training, between)
    encode(out / "share" / "model.safetensors", out / "encode", recipe.encode, setting)
    return out / "encode"


# ------------------------------------------------------------------------------------------------------------------- prune


def prune(network: Path, out: Path, plan: PrunePlan, training: TrainOptions, setting: Setting) -> dict[str, Any]:
    """Rounds of pruning and training; the run's metrics. `rounds.json` tells density and accuracy after each."""
    run = _open(out, "prune", network, {**asdict(plan), **asdict(training)}, setting)
    if setting.force and is_main():
        _clear_rounds(run.folder)
    barrier()
    if not run.finished:
        model = read_network(network, setting.factory)
        history = _rounds(run.folder, model, plan, training, setting)
        if is_main():
            _save(run.model_path, model, setting.factory)
            write_json(run.folder / HISTORY, history)
            write_csv(run.folder / LOG, _joined_logs(run.folder, len(plan.values)))
            details = {"density": total_density(model), "densities": densities(model), "network": str(network)}
            _finish(run, run.model_path, setting, details)
            for file in run.folder.glob("round-*/model.safetensors"):
                file.unlink()
        barrier()
    return run.metrics()


def _rounds(folder: Path, model: nn.Module, plan: PrunePlan, training: TrainOptions, setting: Setting) -> list[dict]:
    """All rounds that are not done yet, each in a folder of its own; leaves the network as after the last."""
    history = []
    for number in range(len(plan.values)):
        place = folder / f"round-{number + 1:02d}"
        done = place / "round.json"
        if not done.is_file():
            history.append(_round(place, model, plan, number, training, setting))
            if is_main():
                write_json(done, history[-1])
                (place / STATE).unlink(missing_ok=True)
                (folder / f"round-{number:02d}" / "model.safetensors").unlink(missing_ok=True)
            barrier()
        else:
            history.append(read_json(done))
            if (place / "model.safetensors").is_file():
                model.load_state_dict(read_network(place / "model.safetensors", setting.factory).state_dict())
    return history


def _round(
    place: Path, model: nn.Module, plan: PrunePlan, number: int, training: TrainOptions, setting: Setting
) -> dict:
    """Prune, train what lives, save."""
    masks = decide(plan, number, prunable_weights(model))
    held = Held(model, masks)
    if plan.learning_rates:
        training = replace(training, learning_rate=plan.learning_rates[number])
    if plan.last_epochs is not None and number == len(plan.values) - 1:
        training = replace(training, epochs=plan.last_epochs)
    rows = _fit(model, training, setting, place, f"prune-{number + 1}", Hooks(after_step=held))
    if is_main():
        _save(place / "model.safetensors", model, setting.factory)
    last = rows[-1] if rows else {}
    return {"round": number + 1, "value": plan.values[number], "density": total_density(model)} | {
        name: last.get(name) for name in ("train_top1", "test_top1")
    }


def _clear_rounds(folder: Path) -> None:
    for name in ("round.json", STATE, LOG, "model.safetensors"):
        for file in folder.glob(f"round-*/{name}"):
            file.unlink()


def _joined_logs(folder: Path, rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        log = folder / f"round-{number:02d}" / LOG
        if log.is_file():
            with open(log, newline="", encoding="utf-8") as file:
                rows += [{"round": number, **row} for row in csv.DictReader(file)]
    return rows


# ------------------------------------------------------------------------------------------------------------------- share


def share(network: Path, out: Path, plan: SharePlan, training: TrainOptions, setting: Setting) -> dict[str, Any]:
    """Cluster the living weights, train the centroids, round the rest; the run's metrics."""
    run = _open(out, "share", network, {**asdict(plan), **asdict(training)}, setting)
    if not run.finished:
        model = read_network(network, setting.factory)
        masks = living_masks(model)
        model.to(setting.device)
        shared = _clustered(model, plan, setting.seed)
        trained = SharedTraining(model, shared)
        before = _accuracy(model, setting)
        hooks = Hooks(after_backward=trained.after_backward, after_step=trained.after_step)
        rows = _fit(model, training, setting, run.folder, "share", hooks)
        shared = trained.finish()
        if plan.rounding != "none":
            shared = round_rest(model, shared, getattr(torch, plan.rounding))
        _check(model, masks, shared)
        if is_main():
            if not rows:
                write_csv(run.folder / LOG, [])
            _save(run.model_path, model, setting.factory)
            clusters = {name: len(codes.centroids) for name, codes in shared.items()}
            _finish(run, run.model_path, setting, {"clusters": clusters, "top1_before_training": before})
        barrier()
    return run.metrics()


def _clustered(model: nn.Module, plan: SharePlan, seed: int) -> dict[str, Codes]:
    clusters = clusters_for(model, {"conv": plan.conv_bits, "fc": plan.fc_bits}, plan.layer_bits)
    if plan.clusters is not None:
        clusters = dict.fromkeys(clusters, plan.clusters)
    biases = None if plan.bias_bits is None else 1 << plan.bias_bits
    return share_network(model, clusters, clusterer(plan.method, plan.init, seed, plan.lloyd_steps), biases)


def _check(model: nn.Module, masks: Mapping[str, torch.Tensor], shared: Mapping[str, Codes]) -> None:
    """No dead weight has come back, and every shared tensor is what its codes say, to the bit."""
    for name, weight in prunable_weights(model).items():
        if bool((weight.cpu()[~masks[name]] != 0).any()):
            raise AssertionError(f"layer {name}: pruned weights are not zero after sharing")
    parameters = dict(model.named_parameters())
    for name, codes in shared.items():
        if not torch.equal(parameters[name].detach(), codes.dense().to(parameters[name].device)):
            raise AssertionError(f"{name} does not have the values of its codebook")


# ------------------------------------------------------------------------------------------------------------------ encode


def encode(network: Path, out: Path, plan: Encoding, setting: Setting) -> dict[str, Any]:
    """Write the compressed file, read it back, measure that; the run's metrics."""
    run = _open(out, "encode", network, asdict(plan), setting)
    if not run.finished:
        if is_main():
            model = read_network(network, setting.factory)
            path = run.folder / ENCODED
            account = write_file(path, model, plan, setting.factory)
            write_csv(run.folder / LOG, [])
            _finish(run, path, setting, sizes(model, account))
        barrier()
    return run.metrics()


def write_file(path: Path | str, model: nn.Module, plan: Encoding, factory: Factory = None) -> Account:
    """`save_compressed` for commands. Raises UserError."""
    how = {"index_bits": plan.index_bits, "order": plan.order, "coder": plan.coder}
    try:
        return save_compressed(path, model, factory=factory, **how)
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def sizes(model: nn.Module, account: Account) -> dict[str, Any]:
    """The rates of a file: dense float32 bytes of the weights, and of the whole state, over the file's bytes."""
    weights = 4 * sum(weight.numel() for weight in prunable_weights(model).values())
    return {
        "weight_bytes": weights,
        "rate": round(weights / account.bytes, 4),
        "rate_of_state": round(account.dense_bytes / account.bytes, 4),
        "file": account.by_category,
    }


# ------------------------------------------------------------------------------------------------------------------ common


def _open(out: Path, stage: str, network: Path, options: Mapping[str, Any], setting: Setting) -> Stage:
    model = read_network(network, setting.factory)
    require_fit(model, setting.data, network)
    if setting.baseline not in (None, network):
        require_fit(read_network(setting.baseline, setting.factory), setting.data, setting.baseline)
    arch = getattr(model, "architecture", {"arch": None})["arch"]
    options = {
        "stage": stage,
        "arch": arch,
        "dataset": setting.data.name,
        "seed": setting.seed,
        "mean": setting.data.mean,
        "std": setting.data.std,
        "network_digest": file_digest(network),
        **options,
    }
    return open_stage(
        out, PACKAGE, options, device=setting.device, fingerprint=setting.data.fingerprint, force=setting.force
    )


def _fit(model, training: TrainOptions, setting: Setting, folder: Path, stage: str, hooks: Hooks):
    images = _normalized(model, setting)
    return fit(
        model, images.train, training, folder=folder, test=images.test, device=setting.device, seed=setting.seed,
        workers=setting.workers, hooks=hooks, stage=stage, tensorboard=setting.tensorboard,
    )  # fmt: skip


def _normalized(model: nn.Module, setting: Setting) -> DataBundle:
    """The pictures as the network's checkpoint wants them."""
    normalize = getattr(model, "checkpoint_header", {}).get("normalize")
    return setting.data.with_normalization(normalize["mean"], normalize["std"]) if normalize else setting.data


def _accuracy(model: nn.Module, setting: Setting) -> float:
    model.to(setting.device, memory_format=torch.channels_last)
    return round(evaluate(model, test_images(model, setting.data), device=setting.device).top1, 4)


def _save(path: Path, model: nn.Module, factory: Factory) -> None:
    save_model(path, model, factory=factory)  # of a copy on the CPU: the network stays where it is


def _finish(run: Stage, path: Path, setting: Setting, details: Mapping[str, Any]) -> None:
    label = {"label": setting.label} if setting.label else {}
    run.finish({**measure(path, setting), **label, **details})


def measure(path: Path, setting: Setting) -> dict[str, dict[str, Any]]:
    """The sides of metrics.json, both networks read back from disk; without a baseline there is one side only."""
    files = {"baseline": setting.baseline, "compressed": path} if setting.baseline else {"compressed": path}
    models = {
        name: read_network(file, setting.factory).to(setting.device, memory_format=torch.channels_last)
        for name, file in files.items()
    }
    sides, reference = {}, None
    for name, model in models.items():
        require_fit(model, setting.data, files[name])
        images = test_images(model, setting.data)
        accuracy = evaluate(model, images, device=setting.device, workers=setting.workers, reference=reference)
        reference = accuracy.predictions if reference is None else reference
        sides[name] = side(model, accuracy, setting.data.input_shape, files[name].stat().st_size)
    if setting.latency:
        for name, milliseconds in latency_ms(models, setting.data.input_shape, device=setting.device).items():
            sides[name]["latency_ms"] = milliseconds
    return sides
