"""Provide the dense network of a seed: train it once or import a given one. All metrics refer to the network in the saved file."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from common.checkpoint import save_model
from common.data import DataBundle
from common.errors import UserError
from common.models import arguments_for, create_model
from common.progress import phase
from common.runs import open_stage
from common.train import train_baseline
from common.trained_model import (
    TrainedModel,
    read_trained_model,
    report_chance_level,
    with_classes_of,
    with_preprocessing_of,
)
from common.training import TrainOptions
from common.training.loop import DivergedError
from compare.settings import PACKAGE

Factory = Callable[[], nn.Module]


def train_dense(
    out: Path,
    arch: str,
    data: DataBundle,
    recipe: TrainOptions,
    device: torch.device,
    seed: int,
    factory: Factory | None = None,
    force: bool = False,
    workers: int = 2,
) -> TrainedModel:
    """Train the dense network of a seed in OUT/seedS/baseline, unless that is finished."""
    options = {"arch": arch, "dataset": data.name, "seed": seed, **recipe.identity()}
    stage = open_stage(
        out / f"seed{seed}" / "baseline", PACKAGE, options, device=device, fingerprint=data.fingerprint, force=force
    )
    if not stage.finished:
        torch.manual_seed(seed)
        model = build_dense(arch, data, factory)
        try:
            train_baseline(stage, model, data, recipe, device, seed, workers, factory=factory, latency=False)
        except DivergedError as error:
            raise UserError(
                f"dense network {arch}, {error.label}: the loss is not finite with --baseline-learning-rate {recipe.learning_rate:g}; "
                "use a smaller one"
            ) from error
    return read_trained_model(stage.model_path, data, name=arch, factory=factory, device=device, workers=workers)


def build_dense(arch: str, data: DataBundle, factory: Factory | None = None) -> nn.Module:
    """Return an untrained network. arch: registered architecture, unless there is a factory."""
    return (
        factory()
        if factory
        else create_model(arch, num_classes=data.num_classes, **arguments_for(arch, data.input_shape))
    )


def import_dense(
    out: Path,
    load: Callable[[], nn.Module],
    file: Path,
    digest: str,
    data: DataBundle,
    device: torch.device,
    factory: Factory | None = None,
    force: bool = False,
    workers: int = 2,
    name: str | None = None,
) -> TrainedModel:
    """Save a trained network as a checkpoint in OUT/baseline, the dense network of all seeds.

    Args:
        load: Returns the network.
        file: File of the network.
        digest: Digest of the file.
        name: Name of the network's factory, if it has one.
    """
    options = {"dataset": data.name, "seed": None, "source": file.name, "digest": digest}
    stage = open_stage(out / "baseline", PACKAGE, options, device=device, fingerprint=data.fingerprint, force=force)
    if not stage.finished:
        model = load()
        data = with_classes_of(model, with_preprocessing_of(model, data), file)
        save_model(stage.model_path, model, **data.record(), factory=factory)
    trained = read_trained_model(stage.model_path, data, name=name, factory=factory, device=device, workers=workers)
    if not stage.finished:
        arch = getattr(trained.model, "architecture", {"arch": name})["arch"]
        with phase("measure"):
            found = {"arch": arch, "baseline": trained.metrics()}
        stage.finish(found | ({"at_chance": True} if report_chance_level(trained) else {}))
    return trained
