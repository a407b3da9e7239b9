"""The paper's claim at small scale: is the searched vector better than random ones of the same budget? All three stages per seed.

python -m rewarded_metapruning.paper.small_scale --dataset-dir data/cifar10 --seeds 0 1 2 3 4

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
from common.runs import Stage, describe_environment
from common.target import Target
from common.training import TrainOptions
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluating import train_variant, variants_of
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, target_window
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import load_images, space_of
from rewarded_metapruning.paper.settings import SmallScale
from rewarded_metapruning.ranking import RewardSettings
from rewarded_metapruning.recipes import SMALL, SearchSettings, with_epochs
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search
from rewarded_metapruning.searching import digest_of, search
from rewarded_metapruning.settings import CONV_LINEAR, HOLDOUT_SEED, PACKAGE, SEARCH_FILE, scale_limits
from rewarded_metapruning.training import log, train_pruning_net

HOLDOUT = 0.1
SIZES = SearchSettings(population=20, parents=6, mutants=10, crossovers=10)
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
    space, held = space_of(settings.arch, data), data.holdout(HOLDOUT, HOLDOUT_SEED)
    amp, workers, target = settings.precision.amp, settings.data.workers, Target(settings.target_macs)
    meta, final = (
        replace(with_epochs(r, e), amp=amp)
        for r, e in ((SMALL.meta, settings.meta_epochs), (SMALL.final, settings.epochs))
    )
    optimizer, learning_rate = settings.meta_optimizer, settings.meta_learning_rate
    decay = 0.0 if optimizer == "adam" else meta.weight_decay
    meta = replace(meta, optimizer=optimizer, learning_rate=learning_rate, weight_decay=decay)
    evolution = Evolution(space, target_window(space_cost(space), target, limits), SIZES, seed, limits)
    options = {
        "arch": space.arch,
        "dataset": data.name,
        "pictures": settings.data.pictures,
        "seed": seed,
        "scales": list(limits),
    }
    place = Stage(folder, PACKAGE, {}, seed=seed, device=device, log=log, force=settings.force)
    trained = place.part("pruning-net", {**options, **asdict(meta)}, fingerprint=held.fingerprint)
    train_pruning_net(trained, space, held, meta, limits, workers)
    net = read_pruning_net(trained.model_path, space).net.to(device)
    evaluator = CandidateEvaluator(net, held.train, held.test, device, *CALIBRATION, seed, workers, amp)
    about = {"pruning_net": digest_of(net, data), "target": target.fraction, **asdict(SIZES)}
    searched = place.part("search", {**options, **about}, fingerprint=held.fingerprint)
    reward = RewardSettings.of_space(space)
    head = {**options, "selected_on": "holdout", **asdict(reward), "target": target.fraction}
    best = search(searched, head, evolution, reward, evaluator, settings.generations)[0]
    place, networks = replace(place, folder=folder / "networks"), []
    for variant in variants_of(space, best.nev, True, settings.random, seed, limits):
        metrics = train_variant(
            variant, place, {**options, **asdict(final)}, space, data, final, workers=workers, latency=False
        )
        side = metrics["compressed"]
        judged = round(evaluator(variant.nev).top1, 4)
        entry = {"role": variant.role, "nev": list(variant.nev), "judged_top1": judged}
        entry |= {key: side[key] for key in ("top1", "loss", "macs", "macs_paper", "params")}
        networks.append({**entry, "seconds": metrics["seconds"]})
    return {
        **options,
        "shape": list(space.shape),
        "target": target.fraction,
        "rule": CONV_LINEAR,
        "meta": {**_recipe(meta), **{key: trained.metrics()[key] for key in ("unpruned_top1", "seconds")}},
        "search": {
            **asdict(SIZES),
            "generations": settings.generations,
            "held_out": len(held.test),
            **_history(searched),
        },
        "final": _recipe(final),
        "networks": networks,
        "data_fingerprint": data.fingerprint,
    }


def _recipe(options: TrainOptions) -> dict[str, Any]:
    names = ("optimizer", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "label_smoothing", "amp")
    return {name: getattr(options, name) for name in names}


def _history(searched: Stage) -> dict[str, Any]:
    """Best, median and worst reward of each generation, best so far, and every candidate as (MACs, top-1)."""
    content = read_search(searched.folder / SEARCH_FILE)
    rows, best = [], float("-inf")
    for number in range(content["generations"]):
        of_this = sorted(c["reward"] for c in content["candidates"] if c["generation"] == number)
        best = max(best, of_this[-1])
        median = of_this[len(of_this) // 2]
        row = {"best_so_far": best, "best": of_this[-1], "median": median, "worst": of_this[0]}
        rows.append({name: round(reward, 5) for name, reward in row.items()})
    points = [[c["macs"], round(c["top1"], 2)] for c in content["candidates"]]
    return {"tested": len(points), "history": rows, "points": points}
