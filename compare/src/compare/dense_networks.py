"""The dense network of each seed, given or trained, from the options of ``python -m compare``."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import file_digest
from common.data import DataBundle
from common.downloads import advise_weights
from common.errors import UserError
from common.executor import claim_file
from common.factory import import_factory, model_from_factory, model_from_name, weights_file
from common.formats import load_network
from common.limits import Limits
from common.progress import activity, say
from common.runs import METRICS, read_record
from common.settings import changed_values, option_name
from common.trained_model import TrainedModel, check_compatible
from compare.dense import build_dense, import_dense, train_dense
from compare.plan import CLAIMS
from compare.recipes import dense_recipe
from compare.settings import Compare

DenseNetworks = Callable[[int], TrainedModel]  # by seed


def dense_networks(settings: Compare, data: DataBundle, device: torch.device, quiet: bool = False) -> DenseNetworks:
    """Return a function from a seed to its dense network, given or trained; it keeps the last one in memory.

    What was measured on it is printed; if ``quiet``, only when this process has trained it.
    """
    out = Path(settings.execution.out)
    found: dict[int | None, TrainedModel] = {}
    if settings.execution.force:
        for folder in out.glob("seed*/shared"):
            shutil.rmtree(folder)

    def dense(seed: int) -> TrainedModel:
        key = None if dense_file(settings) else seed
        if key not in found:
            found.clear()
            place = dense_folder(settings, seed)
            with claim_file(out / CLAIMS / ("baseline" if key is None else f"seed{seed}-baseline"), wait=True):
                new = settings.execution.force or not (place / METRICS).is_file()
                with activity("dense network" + ("" if key is None else f", seed {seed}")):
                    found[key] = _limited(settings, _dense(settings, data, device, seed))
            if new or not quiet:
                say(describe_dense(place, key))
        return found[key]

    return dense


def dense_folder(settings: Compare, seed: int) -> Path:
    """Return the folder of a seed's dense network; if it is given, that of all seeds."""
    out = Path(settings.execution.out)
    return out / "baseline" if dense_file(settings) else out / f"seed{seed}" / "baseline"


def describe_dense(folder: Path, seed: int | None) -> str:
    """Return a line on what was measured on a dense network."""
    record = read_record(folder / METRICS)
    found = record["baseline"]
    name = "Dense network" + ("" if seed is None else f", seed {seed}")
    chance = "; AT CHANCE LEVEL: train it first, or check the classes and the normalization"
    line = f"{name}: top-1 {found['top1']:.2f} %, {found['macs']:,} MACs, {found['bytes']:,} bytes"
    return line + (chance if record.get("at_chance") else "")


def dense_file(settings: Compare) -> str | None:
    return settings.network.checkpoint or settings.network.weights


def untrained_network(settings: Compare, data: DataBundle) -> nn.Module:
    """Return a dense network that is not trained. Raises UserError if it does not fit the data."""
    network = settings.network
    factory = import_factory(network.model, data.num_classes) if network.model else None
    model = build_dense(network.arch, data, factory)
    check_compatible(model, data, network.model or network.arch)
    return model


def _limited(settings: Compare, dense: TrainedModel) -> TrainedModel:
    """Return the network with the limits and calibration images of the options. Raises UserError if a pattern matches no layer."""
    given, more = changed_values(settings.limits), changed_values(settings.calibration)
    limits = Limits.of(dense.model, dense.all_groups, **given, option=option_name) if given else dense.limits
    return dense.changed(limits=limits, **more) if given or more else dense


def _dense(settings: Compare, data: DataBundle, device: torch.device, seed: int) -> TrainedModel:
    out, network = Path(settings.execution.out), settings.network
    file = dense_file(settings)
    factory = import_factory(network.model, data.num_classes) if network.model else None
    how: dict[str, Any] = {
        "factory": factory,
        "force": settings.execution.force,
        "workers": settings.data.workers,
    }
    if file is None:
        return train_dense(out, network.model or network.arch, data, dense_recipe(settings), device, seed, **how)
    given = file
    if network.weights and network.model:
        file = str(weights_file(network.model, network.weights))
    if not Path(file).is_file():
        arch = None if network.model else network.arch
        advice = "give an existing file" if network.checkpoint else advise_weights(file, arch, settings.data.dataset)
        raise UserError(f"{file}: no such file; {advice}")

    def load() -> nn.Module:
        if network.checkpoint:
            return load_network(file, factory)
        if factory:
            return model_from_factory(factory, given)
        return model_from_name(network.arch, file, data.num_classes, data.input_shape)

    return import_dense(out, load, Path(file), file_digest(file), data, device, name=network.model, **how)
