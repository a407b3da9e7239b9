"""Stage 2: search for the encoding vectors with the highest reward, in one or several processes (torchrun)."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_csv, write_json
from common.checkpoint import read_checkpoint
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.latency_target.meet import decide_for_latency
from common.methods import Decision
from common.pipeline import build_network
from common.runs import LOG, Stage, open_stage
from common.target import Target, latency_target
from common.trained_model import TrainedModel
from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.evaluation_cache import PATTERN, EvaluationCache
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, MacsWindow, Window, window_for_target, window_record
from rewarded_metapruning.predicted_latency import SpaceLatency
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.pruning_net_training import log
from rewarded_metapruning.ranking import Candidate, RewardSettings, rank_candidates, run_search
from rewarded_metapruning.recipes import MetaPruningRecipe, find_recipe
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search, write_search
from rewarded_metapruning.settings import (
    HOLDOUT_SEED,
    MILLION,
    PACKAGE,
    PAPER,
    SEARCH_FILE,
    SearchOptions,
    SearchWidths,
    recorded_options,
    resolve_scale_range,
)
from rewarded_metapruning.space import SearchSpace
from rewarded_metapruning.stage_inputs import build_space, check_network, load_images, require_file

SHOWN = 10


def search_command(settings: SearchWidths) -> None:
    """Search with a saved PruningNet and write search.json to --out."""
    options, seed, arch = settings.search, settings.repeat.seed, settings.network.name
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    check_network(arch)
    cache = require_file(options.net_cache, "run train.py, or give the PruningNet's file with --net-cache")
    with process_group(device):
        data = load_images(settings.data, settings.network.name)
        if cache.suffix == ".safetensors" and not data.normalized:
            known = read_checkpoint(cache)[0].get("normalize")
            data = data.with_normalization(known["mean"], known["std"]) if known else data
        space = build_space(arch, data)
        reward, saved = build_reward_settings(options, space), read_pruning_net(cache, space)
        scale_range = resolve_scale_range(settings.scale_range, saved.scale_range or ALL_SCALES)
        saved.require_trained_on(scale_range)
        evolution, net = None, saved.net.to(device)
        if options.target_latency is None:
            window = select_window(options, space_cost(space), find_recipe(arch), scale_range)
            evolution = Evolution(space, window, options.evolution, seed, scale_range)
        digest = digest_pruning_net(net, data)
        recorded = recorded_options(
            settings,
            "out",
            "max_iters",
            "plots",
            "net_cache",
            scale_range=list(scale_range),
            pruning_net=digest,
            compile=False,
        )
        stage = open_stage(
            options.out,
            PACKAGE,
            recorded,
            device=device,
            fingerprint=data.fingerprint,
            force=settings.repeat.force,
            seed=seed,
            log=log,
        )
        head = {
            "arch": space.arch,
            "num_classes": space.num_classes,
            "shape": list(space.shape),
            "dataset": data.name,
            "selected_on": options.select_on,
            "seed": seed,
            "scale_range": list(scale_range),
            "base_accuracy": reward.base_accuracy,
            "base_macs": reward.base_macs,
            "accuracy_power": reward.accuracy_power,
            "macs_power": reward.macs_power,
            "pruning_net": digest,
        }
        evaluator = build_evaluator(settings, net, data, stage)
        if evolution is None:
            search_within_latency(settings, stage, head, space, data, scale_range, reward, evaluator)
        else:
            head |= {"budget": window_record(evolution.window)}
            search(stage, head, evolution, reward, evaluator, options.max_iters)
        if options.plots and is_main():
            from rewarded_metapruning import plots

            content, folder = read_search(stage.folder / SEARCH_FILE), stage.folder
            plots.plot_rewards(folder / "rewards.png", [content])
            plots.plot_candidates(folder / "candidates.png", content)
            log(f"plots: {folder / 'rewards.png'}, {folder / 'candidates.png'}")


def search_within_latency(
    settings: SearchWidths,
    stage: Stage,
    head: dict[str, Any],
    space: SearchSpace,
    data: DataBundle,
    scale_range: tuple[int, int],
    reward: RewardSettings,
    evaluator: CandidateEvaluator,
) -> None:
    """Search until the network of the best vector meets --target-latency as measured, and add that to search.json.

    Each attempt is a search among vectors whose predicted time is within the target; if the measured time of the best one is not, the
    next attempt aims higher or lower. No candidate is evaluated twice.

    Raises:
        UserError: If the target is not met, with the nearest fractions; search.json is then marked as not finished.
    """
    options, file = settings.search, stage.folder / SEARCH_FILE
    assert options.target_latency is not None
    if stage.force and is_main():
        delete_search_files(stage.folder)
    barrier()
    stage = replace(stage, force=False)
    with torch.random.fork_rng(devices=[]):
        dense = TrainedModel(space.arch, space.factory().eval(), data, device=torch.device(stage.device))

    def decide(start: TrainedModel, target: Target | None, attempt: Stage) -> Decision:
        assert target is not None and start.latency is not None
        latency = SpaceLatency(space, start.latency, start.all_groups)
        window = window_for_target(space_cost(space), target, scale_range, latency)
        evolution = Evolution(space, window, options.evolution, stage.seed, scale_range)
        within = head | {"budget": window_record(window)}
        best = search(stage, within, evolution, reward, evaluator, options.max_iters, complete=False)[0]
        return Decision(model=space.build(best.nev).eval())

    target = latency_target(options.target_latency, options.latency_batch_size, options.latency_runtime)
    met = decide_for_latency(decide, build_network, dense, target, stage, snap=False)
    if is_main():
        write_json(file, {**read_search(file), "finished": True, "latency_target": met.report})
    barrier()


def search(
    stage: Stage,
    head: dict[str, Any],
    evolution: Evolution,
    reward: RewardSettings,
    evaluator: CandidateEvaluator,
    generations: int,
    complete: bool = True,
) -> list[Candidate]:
    """Run or resume a search, write search.json after every generation, and return the candidates, best first.

    complete: whether the search is finished after all generations.
    """
    file = stage.folder / SEARCH_FILE
    if stage.force and is_main():
        delete_search_files(stage.folder)
    barrier()
    cache = EvaluationCache(stage.folder, evaluator, stage.device)
    images = "the TEST images, as in the original code" if head["selected_on"] == "test" else "held-out training images"
    stage.log(f"{head['arch']}: candidates are evaluated on {images}; {len(cache.known)} are cached")
    rows: list[dict[str, Any]] = []
    started = time.monotonic()

    def after_generation(number: int, candidates: list[Candidate]) -> None:
        nonlocal started
        of_this = [c for c in candidates if c.generation == number]
        best, median = rank_candidates(candidates)[0], rank_candidates(of_this)[len(of_this) // 2]
        row = {
            "generation": number,
            "tested": len(candidates),
            "best_reward": round(best.reward, 6),
            "median_reward": round(median.reward, 6),
            "best_top1": best.top1,
            "best_macs_paper": best.macs_paper,
            "seconds": round(time.monotonic() - started, 2),
        }
        rows.append(row)
        started = time.monotonic()
        stage.log(
            f"generation {number + 1} of {generations}: best reward {best.reward:.4f} ({best.top1:.2f} %,"
            f" {best.macs_paper:.3f} M), median of this generation {median.reward:.4f}, {row['seconds']:.1f} s"
        )
        if is_main():
            write_search(file, {**head, "generations": number + 1}, candidates, complete and number + 1 == generations)
            write_csv(stage.folder / LOG, rows)

    candidates = rank_candidates(run_search(evolution, reward, cache.evaluate_all, generations, after_generation))
    barrier()
    stage.log(f"best {min(SHOWN, len(candidates))} of {len(candidates)} candidates, written to {file}:")
    for place, candidate in enumerate(candidates[:SHOWN], 1):
        stage.log(
            f"No.{place}: {list(candidate.nev)} MACs = {candidate.macs_paper:.2f}M, Top-1 = {candidate.top1:.2f},"
            f" reward = {candidate.reward:.4f}"
        )
    return candidates


def select_window(
    options: SearchOptions, cost: SpaceCost, recipe: MetaPruningRecipe, scale_range: tuple[int, int] = ALL_SCALES
) -> Window:
    """Return the MACs window: of --target-macs, else of --macs-min and --macs-max, else of the recipe."""
    given = options.macs_min is not None or options.macs_max is not None
    if options.target_macs is not None or (recipe.macs_max is None and not given):
        return window_for_target(cost, Target(options.target_macs or recipe.target), scale_range)
    least = (0.0 if given else recipe.macs_min) if options.macs_min is None else options.macs_min
    most = (None if given else recipe.macs_max) if options.macs_max is None else options.macs_max
    ceiling = int(cost.macs([cost.space.unpruned])[0])
    for name, value in (("--macs-min", options.macs_min), ("--macs-max", options.macs_max)):
        if value is not None and value * MILLION > ceiling:
            raise UserError(
                f"{name} {value:g}: the unpruned network has {ceiling / MILLION:g} million MACs; give at most as many millions"
            )
    return MacsWindow(round(least * MILLION), ceiling if most is None else round(most * MILLION), PAPER)


def build_reward_settings(options: SearchOptions, space: SearchSpace) -> RewardSettings:
    """Return the constants of the reward. Raise UserError for invalid values, before candidates are evaluated."""
    base_macs = RewardSettings.of_space(space).base_macs if options.base_macs is None else options.base_macs
    return RewardSettings(options.base_acc, base_macs, options.acc_power, options.macs_power)


def build_evaluator(settings: SearchWidths, net: PruningNet, data: DataBundle, stage: Stage) -> CandidateEvaluator:
    """Build the evaluator of a search, with the images of --select-on."""
    held, options = data.holdout(settings.holdout, HOLDOUT_SEED), settings.search
    return CandidateEvaluator(
        net,
        held.train,
        data.test if options.select_on == "test" else held.test,
        stage.device,
        options.calibration_batches,
        options.batch_size,
        stage.seed,
        settings.data.workers,
        settings.precision.amp,
    )


def digest_pruning_net(net: PruningNet, data: DataBundle) -> str:
    """Return a digest of the PruningNet's tensors, which the search depends on."""
    return TrainedModel(net.space.arch, net, data).digest


def delete_search_files(folder: Path) -> None:
    """Delete the files of an earlier search."""
    for file in [*folder.glob(PATTERN), folder / SEARCH_FILE]:
        file.unlink(missing_ok=True)
