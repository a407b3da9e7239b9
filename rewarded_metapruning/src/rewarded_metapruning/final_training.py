"""Stage 3: train the network of a vector, from scratch (as in the paper) or from its generated weights.

With --also-train, the unpruned network and networks of random vectors with the same MACs are trained in the same way for
comparison. No trained network is pruned, so this stage does not use :func:`common.pipeline.compress`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import epoch_logger
from common.markdown import markdown_table, pad_table
from common.runs import MODEL, Stage
from common.target import TOLERANCE
from common.trained_model import read_trained_model
from common.training import Hooks, TrainOptions, best_test_top1, fit
from rewarded_metapruning.closed_form import resolve_nev, space_cost
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, MacsWindow
from rewarded_metapruning.pruning_net_files import read_pruning_net, save_original_format
from rewarded_metapruning.pruning_net_training import is_weight, log
from rewarded_metapruning.recipes import EvolutionSettings, find_recipe
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import check_finished, latency_remark, read_nev, read_scale_range
from rewarded_metapruning.settings import (
    CHOSEN,
    CONV_LINEAR,
    HOLDOUT_SEED,
    MILLION,
    PACKAGE,
    PAPER,
    RANDOM,
    UNPRUNED,
    TrainChosen,
    VectorOptions,
    parse_also_train,
    recorded_options,
    resolve_scale_range,
)
from rewarded_metapruning.space import NEV, SearchSpace, rotate_nev
from rewarded_metapruning.stage_inputs import build_space, check_network, load_images, require_file


@dataclass(frozen=True)
class Variant:
    """A network to train. ``role`` is chosen, random or unpruned."""

    role: str
    nev: NEV

    @property
    def folder(self) -> str:
        """Name of its run folder: the role and eight hex digits of the vector's hash."""
        digits = hashlib.sha256(json.dumps(list(self.nev)).encode()).hexdigest()[:8]
        return self.role if self.role == UNPRUNED else f"{self.role}-{digits}"


def train_chosen(settings: TrainChosen, origin: str | None = None) -> None:
    """Train the chosen network and those of --also-train, each in its run folder, and print one table.

    Args:
        origin: Origin of the vector, for messages; None: as the options say.
    """
    vector, arch, seed = settings.vector, settings.network.name, settings.repeat.seed
    unpruned, count = parse_also_train(vector.also_train)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    check_network(arch)
    remark = ""
    if vector.init == "generated":
        require_file(vector.net_cache, "run train.py, or give the PruningNet's file with --net-cache")
    if vector.nev is None:
        require_file(vector.file, "run search.py, or give the vector with --nev")
        remark = check_finished(vector.file, vector.unfinished) + latency_remark(vector.file, vector.rank)
    with process_group(device):
        data = load_images(settings.data, settings.network.name)
        space = build_space(arch, data)
        nev = select_nev(vector, space, origin)
        log(f"encoding vector of {origin or vector.origin}: {list(nev)}{remark}")
        scale_range = resolve_scale_range(
            settings.scale_range, ALL_SCALES if vector.nev is not None else read_scale_range(vector.file)
        )
        variants = list_variants(space, nev, unpruned, count, seed, scale_range)
        options = recorded_options(
            settings,
            "save",
            "also_train",
            "nev",
            "nev_file",
            "rank",
            "unfinished",
            "net_cache",
            "tensorboard",
            "rotated",
            scale_range=list(scale_range),
            holdout=0.1,
        )
        parent = Stage(Path(settings.save), PACKAGE, {}, seed=seed, device=device, log=log, force=settings.repeat.force)
        metrics = [
            train_variant(
                variant,
                parent,
                options,
                space,
                data,
                settings.recipe,
                workers=settings.data.workers,
                net_cache=Path(vector.net_cache) if vector.init == "generated" else None,
                tensorboard=settings.tensorboard,
            )
            for variant in variants
        ]
        if is_main():
            file = parent.folder / variants[-1].folder / MODEL
            save_original_format(parent.folder, load_trained(file, space).state_dict())
            log(format_table(space, variants, metrics))
            log(f"chosen network: {file}")


def train_variant(
    variant: Variant,
    parent: Stage,
    options: Mapping[str, Any],
    space: SearchSpace,
    data: DataBundle,
    recipe: TrainOptions,
    *,
    net_cache: Path | None = None,
    workers: int = 2,
    tensorboard: str | None = None,
    latency: bool = True,
) -> dict[str, Any]:
    """Train a network on all training images, save it, reload it and measure it on the test images.

    Args:
        parent: Stage whose folder holds the network's run folder.
        options: Options that the result depends on, for config.json.
        net_cache: File of a PruningNet that generates the initial weights. None: train from scratch.
        latency: Measure the latency.

    Returns:
        The content of the network's metrics.json.
    """
    about = {"role": variant.role, "nev": list(variant.nev)}
    stage = parent.substage(variant.folder, {**options, **about}, fingerprint=data.fingerprint)
    if not stage.finished:
        torch.manual_seed(stage.seed)
        model = (
            space.build(variant.nev)
            if net_cache is None
            else build_generated(space, variant.nev, net_cache, data, stage)
        )
        rows = fit(
            model,
            data.train,
            recipe,
            folder=stage.folder,
            test=data.test,
            device=stage.device,
            seed=stage.seed,
            workers=workers,
            hooks=Hooks(decays=is_weight, after_epoch=epoch_logger(variant.role, recipe.epochs, stage.log, "training")),
            tensorboard=tensorboard,
        )
        if is_main():
            file, factory = stage.model_path, custom_factory(space)
            save_model(file, model, **data.record())
            reloaded = read_trained_model(file, data, factory=factory, device=stage.device, workers=workers)
            metrics = reloaded.timed_metrics(latency)
            metrics["macs_paper"] = count_cost(load_trained(file, space), data.input_shape, PAPER).macs
            about["init"] = "scratch" if net_cache is None else "generated"
            stage.finish(
                {"compressed": metrics, **about, "epochs": recipe.epochs, "best_test_top1": best_test_top1(rows)}
            )
        barrier()
    return stage.metrics()


def build_generated(space: SearchSpace, nev: NEV, net_cache: Path, data: DataBundle, stage: Stage) -> nn.Module:
    """Build the network of a vector with generated weights and batch norm calibrated on training images."""
    saved = read_pruning_net(net_cache, space)
    if untrained := saved.untrained_entries(nev):
        stage.log(
            f"{net_cache}: not trained on entries such as {untrained[0]}; the weights generated for them are untrained"
        )
    net, calibration = saved.net.to(stage.device), find_recipe(space.arch).calibration
    evaluator = CandidateEvaluator(net, data.train, data.test, stage.device, *calibration)
    model = space.build(nev)
    model.load_state_dict(evaluator.build_calibrated(nev).state_dict())
    return model


def select_nev(settings: VectorOptions, space: SearchSpace, origin: str | None = None) -> NEV:
    """Return the vector of --nev, whose ``origin`` error messages name, or of --rank in the search file."""
    if settings.nev is None:
        nev = read_nev(settings.file, settings.rank, space)
    else:
        try:
            nev = space.check(resolve_nev(space, settings.nev))
        except UserError as error:
            raise UserError(f"{origin or settings.origin}: {error}") from error
    if settings.rotated and space.arch != "mobilenetv1":
        raise UserError(f"--rotated: available for mobilenetv1 only, not for {space.arch}; leave it out")
    return rotate_nev(nev) if settings.rotated else nev


def custom_factory(space: SearchSpace) -> Callable[[], nn.Module] | None:
    """Return the factory that is required to load a saved custom network; None for a registered network."""
    return space.factory if space.custom else None


def load_trained(path: Path, space: SearchSpace) -> nn.Module:
    """Load a network that :func:`train_variant` saved."""
    return load_model(path, custom_factory(space))


def list_variants(
    space: SearchSpace, nev: NEV, unpruned: bool, count: int, seed: int, scale_range: tuple[int, int] = ALL_SCALES
) -> list[Variant]:
    """List the networks to train; the chosen one is last.

    Args:
        nev: The chosen vector.
        unpruned: Include the unpruned network.
        count: Number of random vectors, whose MACs are at most those of ``nev`` and at most 2 % fewer.
    """
    variants = [Variant(UNPRUNED, space.unpruned)] if unpruned else []
    if count:
        macs = int(space_cost(space).macs([nev], CONV_LINEAR)[0])
        window = MacsWindow(int((1 - TOLERANCE) * macs), macs, CONV_LINEAR)
        evolution = Evolution(space, window, EvolutionSettings(), seed, scale_range)
        variants += [Variant(RANDOM, other) for other in evolution.sample(count, (seed, HOLDOUT_SEED), {nev})]
    return [*variants, Variant(CHOSEN, nev)]


def format_table(space: SearchSpace, variants: Sequence[Variant], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Format a table with one row per network, measured after reloading it from disk."""
    dense = int(space_cost(space).macs([space.unpruned], CONV_LINEAR)[0])
    rows = []
    for variant, values in zip(variants, (result["compressed"] for result in metrics), strict=True):
        top1, paper, kept = values["top1"], values["macs_paper"] / MILLION, 100 * values["macs"] / dense
        rows.append(
            [variant.role, f"{top1:.2f}", f"{paper:.3f}", f"{kept:.2f}", f"{values['params']:,}", variant.folder]
        )
    header = ["network", "top-1 (%)", "MACs by the paper's rule (millions)", "remaining MACs (%)", "params", "folder"]
    return pad_table(markdown_table(header, rows))
