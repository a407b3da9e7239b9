"""Stage 3: train the network of a vector, from scratch as the paper does or from its generated weights; and what to hold it against.

With --beside the unpruned network, and random vectors of the same MACs, are trained in the same way. No trained network is
pruned here and there is no dense one to compare with, so this does not end in :func:`common.pipeline.compress`.
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
from common.markdown import markdown_table, padded
from common.runs import MODEL, Stage
from common.target import TOLERANCE
from common.trained_model import read_trained_model
from common.training import Hooks, TrainOptions, best_test_top1, fit
from rewarded_metapruning.closed_form import named_nev, space_cost
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, MacsWindow
from rewarded_metapruning.files import read_pruning_net, write_flat
from rewarded_metapruning.images import load_images, require_file, require_network, space_of
from rewarded_metapruning.recipes import SearchSettings, recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import nev_of_rank, searched_scales
from rewarded_metapruning.settings import (
    CHOSEN,
    CONV_LINEAR,
    HOLDOUT_SEED,
    MILLION,
    PACKAGE,
    PAPER,
    RANDOM,
    UNPRUNED,
    Evaluate,
    Vector,
    recorded,
    scale_limits,
    wanted_beside,
)
from rewarded_metapruning.space import NEV, SearchSpace, aligned
from rewarded_metapruning.training import is_weight, log


@dataclass(frozen=True)
class Variant:
    """A network that is trained: the chosen one, a random one or the unpruned one."""

    role: str
    nev: NEV

    @property
    def folder(self) -> str:
        """The name of its run folder: the role, and eight hex digits for the vector."""
        digits = hashlib.sha256(json.dumps(list(self.nev)).encode()).hexdigest()[:8]
        return self.role if self.role == UNPRUNED else f"{self.role}-{digits}"


def evaluate(settings: Evaluate) -> None:
    """The command: run folders of the chosen network and those beside it, and one table."""
    vector, arch, seed = settings.vector, settings.network.name, settings.repeat.seed
    unpruned, count = wanted_beside(vector.beside)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    require_network(arch)
    if vector.init == "generated":
        require_file(vector.net_cache, "train.py makes it; --net-cache names another place")
    if vector.nev is None:
        require_file(vector.file, "search.py makes it; or give the vector with --nev")
    with process_group(device):
        data = load_images(settings.data)
        space = space_of(arch, data)
        nev = chosen_nev(vector, space)
        limits = scale_limits(settings.scales, ALL_SCALES if vector.nev is not None else searched_scales(vector.file))
        variants = variants_of(space, nev, unpruned, count, seed, limits)
        options = recorded(
            settings,
            "save",
            "beside",
            "nev",
            "nev_file",
            "rank",
            "net_cache",
            "tensorboard",
            "rotated",
            scales=list(limits),
            holdout=0.1,
        )
        place = Stage(Path(settings.save), PACKAGE, {}, seed=seed, device=device, log=log, force=settings.repeat.force)
        metrics = [
            train_variant(
                variant,
                place,
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
            file = place.folder / variants[-1].folder / MODEL
            write_flat(place.folder, load_result(file, space).state_dict())
            log(table(space, variants, metrics))
            log(f"the chosen network: {file}")


def train_variant(
    variant: Variant,
    place: Stage,
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
    """Train a network on all training images, save it, read it back, measure it on the test images; its metrics.

    place: where its run folder lies. net_cache: a PruningNet whose weights it starts from; None for new ones.
    """
    about = {"role": variant.role, "nev": list(variant.nev)}
    stage = place.part(variant.folder, {**options, **about}, fingerprint=data.fingerprint)
    if not stage.finished:
        torch.manual_seed(stage.seed)
        model = space.build(variant.nev) if net_cache is None else generated(space, variant.nev, net_cache, data, stage)
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
            file, factory = stage.model_path, factory_of(space)
            save_model(file, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
            small = read_trained_model(file, data, factory=factory, device=stage.device, workers=workers)
            side = small.timed_metrics(latency)
            side["macs_paper"] = count_cost(load_result(file, space), data.input_shape, PAPER).macs
            about["init"] = "scratch" if net_cache is None else "generated"
            stage.finish({"compressed": side, **about, "epochs": recipe.epochs, "best_test_top1": best_test_top1(rows)})
        barrier()
    return stage.metrics()


def generated(space: SearchSpace, nev: NEV, net_cache: Path, data: DataBundle, stage: Stage) -> nn.Module:
    """The network of a vector with generated weights, batch norm calibrated on training images."""
    saved = read_pruning_net(net_cache, space)
    if untrained := saved.untrained_entries(nev):
        stage.log(
            f"{net_cache} was not trained on entries such as {untrained[0]}: its weights for them are as they were drawn"
        )
    net, calibration = saved.net.to(stage.device), recipe_of(space.arch).calibration
    evaluator = CandidateEvaluator(net, data.train, data.test, stage.device, *calibration)
    model = space.build(nev)
    model.load_state_dict(evaluator.calibrated(nev).state_dict())
    return model


def chosen_nev(settings: Vector, space: SearchSpace) -> NEV:
    """The vector of --nev, or of --rank in the search file."""
    if settings.nev is None:
        nev = nev_of_rank(settings.file, settings.rank, space)
    else:
        nev = space.check(named_nev(space, settings.nev))
    if settings.rotated and space.arch != "mobilenetv1":
        raise UserError(f"--rotated is a form of mobilenetv1's vectors, not of {space.arch}'s")
    return aligned(nev) if settings.rotated else nev


def factory_of(space: SearchSpace) -> Callable[[], nn.Module] | None:
    """What reading a saved network needs besides its file: nothing for a registered one."""
    return space.factory if space.own else None


def load_result(path: Path, space: SearchSpace) -> nn.Module:
    return load_model(path, factory_of(space))


def variants_of(
    space: SearchSpace, nev: NEV, unpruned: bool, count: int, seed: int, limits: tuple[int, int] = ALL_SCALES
) -> list[Variant]:
    """The networks to train, the chosen one last. count: of random ones, whose MACs are the chosen one's or up to 2 % fewer."""
    variants = [Variant(UNPRUNED, space.unpruned)] if unpruned else []
    if count:
        macs = int(space_cost(space).macs([nev], CONV_LINEAR)[0])
        window = MacsWindow(int((1 - TOLERANCE) * macs), macs, CONV_LINEAR)
        evolution = Evolution(space, window, SearchSettings(), seed, limits)
        variants += [Variant(RANDOM, other) for other in evolution.random(count, (seed, HOLDOUT_SEED), {nev})]
    return [*variants, Variant(CHOSEN, nev)]


def table(space: SearchSpace, variants: Sequence[Variant], metrics: Sequence[Mapping[str, Any]]) -> str:
    """One row per network, measured on what was read back from disk."""
    dense = int(space_cost(space).macs([space.unpruned], CONV_LINEAR)[0])
    rows = []
    for variant, side in zip(variants, (found["compressed"] for found in metrics), strict=True):
        top1, paper, kept = side["top1"], side["macs_paper"] / MILLION, 100 * side["macs"] / dense
        rows.append([variant.role, f"{top1:.2f}", f"{paper:.3f}", f"{kept:.2f}", f"{side['params']:,}", variant.folder])
    return padded(
        markdown_table(["network", "top-1 %", "M MACs, paper's rule", "MACs kept %", "params", "folder"], rows)
    )
