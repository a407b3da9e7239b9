"""The paper's claim at small scale: is the searched vector better than random ones of the same budget? All three stages per seed.

python -m rewarded_metapruning.small_scale --dataset-dir data/cifar10 --seeds 0 1 2 3 4

Per seed: a PruningNet, a search on held-out training pictures, then the chosen network, random ones of the same budget and the
unpruned one trained in the same way for equally long. One result file per seed; what is finished is skipped.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_json
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.runs import describe_environment, open_stage
from common.trained import Trained
from common.training import TrainOptions
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluating import line_up, run_contender
from rewarded_metapruning.evolution import Breeder
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import load_images, space_of
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.ranking import Terms
from rewarded_metapruning.recipes import SMALL, Plan, with_epochs
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search
from rewarded_metapruning.searching import search, target_budget
from rewarded_metapruning.settings import (
    CONV_LINEAR,
    HOLDOUT_SEED,
    MILLION,
    PACKAGE,
    SEARCH_FILE,
    SmallScale,
    scale_limits,
)
from rewarded_metapruning.training import train_pruning_net

HOLDOUT = 0.1
PLAN = Plan(population=20, parents=6, mutants=10, crossovers=10)
CALIBRATION = (8, 125)


def compare(settings: SmallScale, command: str) -> None:
    """The command: a result file for each seed that has none. command: as it can be typed again."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    data = load_images(settings.data)
    for seed in settings.seeds:
        file = Path(settings.results) / f"small-{label_of(settings, data)}-seed{seed}.json"
        if file.is_file() and not settings.force:
            print(f"{file} is there already")
            continue
        record = one_seed(settings, data, seed, device)
        write_json(file, {"command": command, **record, "environment": describe_environment(device)})
        print(f"{file}: " + ", ".join(f"{n['role']} {n['top1']:.2f} %" for n in record["networks"]), flush=True)


def label_of(settings: SmallScale, data: DataBundle) -> str:
    """What files and folders of one setting are called."""
    low, high = scale_limits(settings.scales)
    name = data.name.rsplit("/", 1)[-1]  # of folder:PATH
    label = f"{settings.arch}-{name}" + ("" if (low, high) == ALL_SCALES else f"-scales{low}-{high}")
    return label if settings.meta_optimizer == "sgd" else f"{label}-{settings.meta_optimizer}"


def one_seed(settings: SmallScale, data: DataBundle, seed: int, device: torch.device) -> dict[str, Any]:
    """All three stages with one seed: what the result file holds."""
    folder, limits = Path(settings.out) / f"{label_of(settings, data)}-seed{seed}", scale_limits(settings.scales)
    space = space_of(settings.arch, data)
    cost, held = space_cost(space), data.holdout(HOLDOUT, HOLDOUT_SEED)
    amp, workers, force = settings.precision.amp, settings.data.workers, settings.force
    meta, final = (
        replace(with_epochs(r, e), amp=amp)
        for r, e in ((SMALL.meta, settings.meta_epochs), (SMALL.final, settings.epochs))
    )
    optimizer, learning_rate = settings.meta_optimizer, settings.meta_learning_rate
    decay = 0.0 if optimizer == "adam" else meta.weight_decay
    meta = replace(meta, optimizer=optimizer, learning_rate=learning_rate, weight_decay=decay)
    breeder = Breeder(space, cost, target_budget(cost, settings.target_macs), PLAN, seed, limits)
    options = {
        "arch": space.arch,
        "dataset": data.name,
        "pictures": settings.data.pictures,
        "seed": seed,
        "scales": list(limits),
    }
    run = open_stage(
        folder / "pruning-net", PACKAGE, {**options, **asdict(meta)}, device=device, fingerprint=held.fingerprint, force=force
    )  # fmt: skip
    trained = train_pruning_net(run, space, held, meta, device, seed, workers, limits=limits)
    net = read_pruning_net(run.model_path, space).net.to(device)
    judge = Judge(net, held.train, held.test, device, *CALIBRATION, seed=seed, workers=workers, amp=amp)
    terms = Terms(base_macs=int(cost.macs([space.unpruned])[0]) / MILLION)
    digest, target = Trained(net, data, space.arch).digest, settings.target_macs
    searched = open_stage(
        folder / "search", PACKAGE, {**options, "pruning_net": digest, "target": target, **asdict(PLAN)},
        device=device, fingerprint=held.fingerprint, force=force,
    )  # fmt: skip
    head = {**options, "selected_on": "holdout", **asdict(terms), "target": target}
    best = search(searched.folder, head, breeder, cost, terms, judge, settings.generations, device)[0]
    content = read_search(searched.folder / SEARCH_FILE)
    contenders = line_up(space, best.nev, folder / "networks", True, settings.random, seed, limits)
    networks = []
    for contender in contenders:
        metrics = run_contender(
            contender, space, data, final, device, {**options, **asdict(final)}, seed=seed, workers=workers, force=force,
            latency=False,
        )  # fmt: skip
        side = metrics["compressed"]
        entry = {"role": contender.role, "nev": list(contender.nev), "judged_top1": round(judge(contender.nev).top1, 4)}
        entry |= {key: side[key] for key in ("top1", "loss", "macs", "macs_paper", "params")}
        networks.append({**entry, "seconds": metrics["seconds"]})
    return {
        **options, "shape": list(space.shape), "target": target, "rule": CONV_LINEAR,
        "meta": {**_recipe(meta), "unpruned_top1": trained["unpruned_top1"], "seconds": trained["seconds"]},
        "search": {**asdict(PLAN), "generations": settings.generations, "held_out": len(held.test), **_history(content)},
        "final": _recipe(final), "networks": networks, "data_fingerprint": data.fingerprint,
    }  # fmt: skip


def _recipe(options: TrainOptions) -> dict[str, Any]:
    names = ("optimizer", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "label_smoothing", "amp")
    return {name: getattr(options, name) for name in names}


def _history(content: dict[str, Any]) -> dict[str, Any]:
    """Best, median and worst reward of each generation, best so far, and every candidate as (MACs, top-1)."""
    rows, best = [], float("-inf")
    for number in range(content["generations"]):
        of_this = sorted(c["reward"] for c in content["candidates"] if c["generation"] == number)
        best = max(best, of_this[-1])
        median = of_this[len(of_this) // 2]
        rows.append(
            {
                "best_so_far": round(best, 5),
                "best": round(of_this[-1], 5),
                "median": round(median, 5),
                "worst": round(of_this[0], 5),
            }
        )
    points = [[c["macs"], round(c["top1"], 2)] for c in content["candidates"]]
    return {"tested": len(points), "history": rows, "points": points}
