"""Stage 3: train the network of a vector, from scratch as the paper does or from its generated weights; and what to hold it against.

With --beside the unpruned network, and random vectors of the same budget, are trained in the same way.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
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
from common.log import Say
from common.measure import measure_files
from common.results import markdown_table, padded
from common.runs import open_stage
from common.training import Hooks, TrainOptions, best_test_top1, fit
from rewarded_metapruning.closed_form import named_nev, space_cost
from rewarded_metapruning.evolution import Breeder, Budget
from rewarded_metapruning.files import read_pruning_net, write_flat
from rewarded_metapruning.images import load_images, require_file, require_network, space_of
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.recipes import Plan, recipe_of
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
from rewarded_metapruning.space import NEV, Space, aligned
from rewarded_metapruning.training import is_weight

WINDOW = 0.02  # random vectors cost as much as the chosen one, or up to this share less


@dataclass(frozen=True)
class Contender:
    """A network that is trained: its role, its vector, the folder of its run."""

    role: str
    nev: NEV
    folder: Path


def evaluate(settings: Evaluate) -> None:
    """The command: run folders of the chosen network and those beside it, and one table."""
    recipe, vector = settings.recipe, settings.vector
    arch, seed, save = settings.network.name, settings.repeat.seed, Path(settings.save)
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
        contenders = line_up(space, nev, save, unpruned, count, seed, limits)
        options = recorded(
            settings, "save", "beside", "nev", "nev_file", "rank", "net_cache", "tensorboard", "rotated",
            scales=list(limits), holdout=0.1,
        )  # fmt: skip
        for contender in contenders:
            run_contender(
                contender, space, data, recipe, device, options, net_cache=Path(vector.net_cache), seed=seed,
                workers=settings.data.workers, force=settings.repeat.force, say=say, tensorboard=settings.tensorboard,
            )  # fmt: skip
        if is_main():
            chosen = contenders[-1]
            write_flat(save, load_result(chosen.folder / "model.safetensors", space).state_dict())
            say(table(space, contenders))
            say(f"the chosen network: {chosen.folder / 'model.safetensors'}")


def run_contender(
    contender: Contender,
    space: Space,
    data: DataBundle,
    recipe: TrainOptions,
    device: torch.device,
    options: dict[str, Any],
    *,
    net_cache: Path | None = None,
    seed: int = 0,
    workers: int = 2,
    force: bool = False,
    say: Say = print,
    tensorboard: str | None = None,
    latency: bool = True,
) -> dict[str, Any]:
    """Train one network on all training pictures, save it, read it back, measure it on the test pictures; its metrics."""
    options = {**options, "nev": list(contender.nev), "role": contender.role}
    run = open_stage(contender.folder, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=force)
    if not run.finished:
        torch.manual_seed(seed)
        model = first_network(space, contender.nev, options.get("init", "scratch"), net_cache, data, device, say)

        def after_epoch(epoch: int) -> dict[str, Any]:
            say(f"{contender.role}: epoch {epoch + 1} of {recipe.epochs} is done")
            return {}

        rows = fit(
            model, data.train, recipe, folder=run.folder, test=data.test, device=device, seed=seed, workers=workers,
            hooks=Hooks(decays=is_weight, after_epoch=after_epoch), tensorboard=tensorboard,
        )  # fmt: skip
        if is_main():
            save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
            sides = measure_files(
                {"compressed": run.model_path}, data, device=device, workers=workers, factory=factory_of(space), latency=latency
            )  # fmt: skip
            read_back = load_result(run.model_path, space)
            sides["compressed"]["macs_paper"] = count_cost(read_back, data.input_shape, PAPER).macs
            best = best_test_top1(rows)
            role = {"role": contender.role, "nev": list(contender.nev), "init": options.get("init", "scratch")}
            run.finish({**sides, **role, "epochs": recipe.epochs, "best_test_top1": best})
        barrier()
    return run.metrics()


def first_network(
    space: Space, nev: NEV, init: str, net_cache: Path | None, data: DataBundle, device: torch.device, say: Say = print
) -> nn.Module:
    """The network before training: new weights, or generated ones with norms calibrated on training pictures."""
    model = space.build(nev)
    if init == "generated" and net_cache is not None:
        saved = read_pruning_net(net_cache, space)
        if foreign := saved.foreign_entries(nev):
            say(
                f"{net_cache} was not trained on entries such as {foreign[0]}: its weights for them are as they were drawn"
            )
        judge = Judge(saved.net.to(device), data.train, data.test, device, *recipe_of(space.arch).calibration)
        model.load_state_dict(judge.calibrated(nev).state_dict())
    return model


def chosen_nev(settings: Vector, space: Space) -> NEV:
    """The vector of --nev, or of --rank in the search file."""
    if settings.nev is None:
        nev = nev_of_rank(settings.file, settings.rank, space)
    else:
        nev = space.check(named_nev(space, settings.nev))
    if settings.rotated and space.arch != "mobilenetv1":
        raise UserError(f"--rotated is a form of mobilenetv1's vectors, not of {space.arch}'s")
    return aligned(nev) if settings.rotated else nev


def factory_of(space: Space) -> Callable[[], nn.Module] | None:
    """What reading a saved network needs besides its file: nothing for a registered one."""
    return space.factory if space.own else None


def load_result(path: Path, space: Space) -> nn.Module:
    return load_model(path, factory_of(space))


def line_up(
    space: Space, nev: NEV, folder: Path, unpruned: bool, count: int, seed: int, limits: tuple[int, int] = ALL_SCALES
) -> list[Contender]:
    """The networks to train, the chosen one last."""
    cost = space_cost(space)
    contenders = [Contender(UNPRUNED, space.unpruned, folder / UNPRUNED)] if unpruned else []
    if count:
        macs = int(cost.macs([nev], CONV_LINEAR)[0])
        breeder = Breeder(space, cost, Budget(int((1 - WINDOW) * macs), macs, CONV_LINEAR), Plan(), seed, limits)
        for other in breeder.random(count, (seed, HOLDOUT_SEED), {nev}):
            contenders.append(Contender(RANDOM, other, folder / f"{RANDOM}-{short(other)}"))
    return [*contenders, Contender(CHOSEN, nev, folder / f"{CHOSEN}-{short(nev)}")]


def short(nev: NEV) -> str:
    """Eight hex digits that name a vector's folder."""
    return hashlib.sha256(json.dumps(list(nev)).encode()).hexdigest()[:8]


def table(space: Space, contenders: Sequence[Contender]) -> str:
    """One row per network, measured on what was read back from disk."""
    rows = []
    dense = int(space_cost(space).macs([space.unpruned], CONV_LINEAR)[0])
    for contender in contenders:
        metrics = json.loads((contender.folder / "metrics.json").read_text(encoding="utf-8"))
        side = metrics["compressed"]
        share, paper = 100 * side["macs"] / dense, side["macs_paper"] / MILLION
        rows.append(
            [
                contender.role,
                f"{side['top1']:.2f}",
                f"{paper:.3f}",
                f"{share:.2f}",
                f"{side['params']:,}",
                contender.folder.name,
            ]
        )
    return padded(
        markdown_table(["network", "top-1 %", "M MACs, paper's rule", "MACs kept %", "params", "folder"], rows)
    )


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)
