"""Compare searched with random encoding vectors of the same target MACs, all three stages per seed, at small scale.

python -m rewarded_metapruning.paper.search_vs_random --dataset-dir data/cifar10 --seeds 0 1 2 3 4

Per seed: train a PruningNet, search on held-out training images, then train the chosen network, random ones with the same
target MACs and the unpruned one with the same recipe. One result file per seed; finished seeds are skipped.
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
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, window_for_target
from rewarded_metapruning.final_training import list_variants, train_variant
from rewarded_metapruning.paper.settings import SearchVsRandom
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.pruning_net_training import log, train_pruning_net
from rewarded_metapruning.ranking import RewardSettings
from rewarded_metapruning.recipes import SMALL, EvolutionSettings, with_epochs
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search
from rewarded_metapruning.search_stage import digest_pruning_net, search
from rewarded_metapruning.settings import CONV_LINEAR, HOLDOUT_SEED, PACKAGE, SEARCH_FILE, resolve_scale_range
from rewarded_metapruning.stage_inputs import build_space, load_images

HOLDOUT = 0.1
EVOLUTION = EvolutionSettings(population=20, parents=6, mutants=10, crossovers=10)
CALIBRATION = (8, 125)


def run_seeds(settings: SearchVsRandom, command: str) -> None:
    """Write a result file for each seed that has none. command: the command line, for the result files."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    data = load_images(settings.data, settings.arch)
    for seed in settings.seeds:
        file = Path(settings.results) / f"small-{setting_label(settings, data)}-seed{seed}.json"
        if file.is_file() and not settings.force:
            print(f"{file} already exists")
            continue
        record = run_seed(settings, data, seed, device)
        write_json(file, {"command": command, **record, "environment": describe_environment(device)})
        print(f"{file}: " + ", ".join(f"{n['role']} {n['top1']:.2f} %" for n in record["networks"]), flush=True)


def setting_label(settings: SearchVsRandom, data: DataBundle) -> str:
    """Return the name of a setting in file and folder names."""
    low, high = resolve_scale_range(settings.scale_range)
    name = data.name.rsplit("/", 1)[-1]  # last part of folder:PATH
    label = f"{settings.arch}-{name}" + ("" if (low, high) == ALL_SCALES else f"-scales{low}-{high}")
    return label if settings.meta_optimizer == "sgd" else f"{label}-{settings.meta_optimizer}"


def run_seed(settings: SearchVsRandom, data: DataBundle, seed: int, device: torch.device) -> dict[str, Any]:
    """Run all three stages with one seed and return the content of the result file."""
    folder = Path(settings.out) / f"{setting_label(settings, data)}-seed{seed}"
    scale_range = resolve_scale_range(settings.scale_range)
    space, held = build_space(settings.arch, data), data.holdout(HOLDOUT, HOLDOUT_SEED)
    amp, workers, target = settings.precision.amp, settings.data.workers, Target(settings.target_macs)
    meta, final = (
        replace(with_epochs(r, e), amp=amp)
        for r, e in ((SMALL.meta, settings.meta_epochs), (SMALL.final, settings.epochs))
    )
    optimizer, learning_rate = settings.meta_optimizer, settings.meta_learning_rate
    decay = 0.0 if optimizer == "adam" else meta.weight_decay
    meta = replace(meta, optimizer=optimizer, learning_rate=learning_rate, weight_decay=decay)
    evolution = Evolution(
        space, window_for_target(space_cost(space), target, scale_range), EVOLUTION, seed, scale_range
    )
    options = {
        "arch": space.arch,
        "dataset": data.name,
        "train_images": settings.data.train_images,
        "seed": seed,
        "scale_range": list(scale_range),
    }
    parent = Stage(folder, PACKAGE, {}, seed=seed, device=device, log=log, force=settings.force)
    trained = parent.substage("pruning-net", {**options, **asdict(meta)}, fingerprint=held.fingerprint)
    train_pruning_net(trained, space, held, meta, scale_range, workers)
    net = read_pruning_net(trained.model_path, space).net.to(device)
    evaluator = CandidateEvaluator(net, held.train, held.test, device, *CALIBRATION, seed, workers, amp)
    about = {"pruning_net": digest_pruning_net(net, data), "target": target.fraction, **asdict(EVOLUTION)}
    searched = parent.substage("search", {**options, **about}, fingerprint=held.fingerprint)
    reward = RewardSettings.of_space(space)
    head = {**options, "selected_on": "holdout", **asdict(reward), "target": target.fraction}
    best = search(searched, head, evolution, reward, evaluator, settings.generations)[0]
    parent, networks = replace(parent, folder=folder / "networks"), []
    for variant in list_variants(space, best.nev, True, settings.random, seed, scale_range):
        metrics = train_variant(
            variant, parent, {**options, **asdict(final)}, space, data, final, workers=workers, latency=False
        )
        candidate_top1 = round(evaluator(variant.nev).top1, 4)
        entry = {"role": variant.role, "nev": list(variant.nev), "candidate_top1": candidate_top1}
        entry |= {key: metrics["compressed"][key] for key in ("top1", "loss", "macs", "macs_paper", "params")}
        networks.append({**entry, "seconds": metrics["seconds"]})
    return {
        **options,
        "shape": list(space.shape),
        "target": target.fraction,
        "rule": CONV_LINEAR,
        "meta": {**_recipe_record(meta), **{key: trained.metrics()[key] for key in ("unpruned_top1", "seconds")}},
        "search": {
            **asdict(EVOLUTION),
            "generations": settings.generations,
            "held_out": len(held.test),
            **_summarize_search(searched),
        },
        "final": _recipe_record(final),
        "networks": networks,
        "data_fingerprint": data.fingerprint,
    }


def _recipe_record(options: TrainOptions) -> dict[str, Any]:
    names = ("optimizer", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "label_smoothing", "amp")
    return {name: getattr(options, name) for name in names}


def _summarize_search(searched: Stage) -> dict[str, Any]:
    """Return best, median and worst reward of each generation, the best so far, and (MACs, top-1) of every candidate."""
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
