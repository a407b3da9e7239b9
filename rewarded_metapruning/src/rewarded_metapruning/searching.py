"""Stage 2: search for the encoding vectors with the largest reward, in one process or several (torchrun)."""

import time
from pathlib import Path
from typing import Any

from common.atomic import write_csv
from common.checkpoint import read_checkpoint
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.runs import LOG, Stage, open_stage
from common.target import Target
from common.trained_model import TrainedModel
from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.evaluation_cache import PATTERN, EvaluationCache
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, MacsWindow, target_window
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import load_images, require_file, require_network, space_of
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.ranking import Candidate, RewardSettings, ranked, run_search
from rewarded_metapruning.recipes import Recipe, recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search, write_search
from rewarded_metapruning.settings import (
    HOLDOUT_SEED,
    MILLION,
    PACKAGE,
    PAPER,
    SEARCH_FILE,
    Search,
    Searching,
    recorded,
    scale_limits,
)
from rewarded_metapruning.space import SearchSpace
from rewarded_metapruning.training import log

SHOWN = 10


def search_command(settings: Search) -> None:
    """The command: search.json in --out, from a PruningNet's file."""
    how, seed, arch = settings.searching, settings.repeat.seed, settings.network.name
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    require_network(arch)
    cache = require_file(how.net_cache, "train.py makes it; --net-cache names another place")
    with process_group(device):
        data = load_images(settings.data)
        if cache.suffix == ".safetensors" and settings.data.normalize is None:
            known = read_checkpoint(cache)[0].get("normalize")
            data = data.with_normalization(known["mean"], known["std"]) if known else data
        space = space_of(arch, data)
        reward, saved = reward_of(how, space), read_pruning_net(cache, space)
        limits = scale_limits(settings.scales, saved.limits or ALL_SCALES)
        saved.require_trained_on(limits)
        window = window_of(how, space_cost(space), recipe_of(arch), limits)
        evolution, net = Evolution(space, window, how.sizes, seed, limits), saved.net.to(device)
        digest = digest_of(net, data)
        options = recorded(
            settings, "out", "max_iters", "plots", "net_cache", scales=list(limits), pruning_net=digest, compile=False
        )
        stage = open_stage(
            how.out,
            PACKAGE,
            options,
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
            "selected_on": how.select_on,
            "seed": seed,
            "scales": list(limits),
            "base_accuracy": reward.base_accuracy,
            "base_macs": reward.base_macs,
            "accuracy_power": reward.accuracy_power,
            "macs_power": reward.macs_power,
            "budget": {"rule": window.rule, "least": window.least, "most": window.most},
            "pruning_net": digest,
        }
        search(stage, head, evolution, reward, build_evaluator(settings, net, data, stage), how.max_iters)
        if how.plots and is_main():
            from rewarded_metapruning import plots

            content, folder = read_search(stage.folder / SEARCH_FILE), stage.folder
            plots.rewards(folder / "rewards.png", [content])
            plots.candidates(folder / "candidates.png", content)
            log(f"plots: {folder / 'rewards.png'}, {folder / 'candidates.png'}")


def search(
    stage: Stage,
    head: dict[str, Any],
    evolution: Evolution,
    reward: RewardSettings,
    evaluator: CandidateEvaluator,
    generations: int,
) -> list[Candidate]:
    """Search, or resume searching, and write search.json after every generation: the candidates, best first."""
    file = stage.folder / SEARCH_FILE
    if stage.force and is_main():
        discard(stage.folder)
    barrier()
    cache = EvaluationCache(stage.folder, evaluator, stage.device)
    chosen_on = (
        "the TEST pictures, as the original does" if head["selected_on"] == "test" else "held-out training pictures"
    )
    stage.log(f"{head['arch']}: candidates are judged on {chosen_on}; {len(cache.known)} are known already")
    rows: list[dict[str, Any]] = []
    started = time.monotonic()

    def after_generation(number: int, candidates: list[Candidate]) -> None:
        nonlocal started
        of_this = [c for c in candidates if c.generation == number]
        best, middle = ranked(candidates)[0], ranked(of_this)[len(of_this) // 2]
        row = {
            "generation": number,
            "tested": len(candidates),
            "best_reward": round(best.reward, 6),
            "median_reward": round(middle.reward, 6),
            "best_top1": best.top1,
            "best_macs_paper": best.macs_paper,
            "seconds": round(time.monotonic() - started, 2),
        }
        rows.append(row)
        started = time.monotonic()
        stage.log(
            f"generation {number + 1} of {generations}: best reward {best.reward:.4f} ({best.top1:.2f} %,"
            f" {best.macs_paper:.3f} M), median of this one {middle.reward:.4f}, {row['seconds']:.1f} s"
        )
        if is_main():
            write_search(file, {**head, "generations": number + 1}, candidates, number + 1 == generations)
            write_csv(stage.folder / LOG, rows)

    candidates = ranked(run_search(evolution, reward, cache.evaluate_all, generations, after_generation))
    barrier()
    stage.log(f"the best {min(SHOWN, len(candidates))} of {len(candidates)}, in {file}:")
    for place, candidate in enumerate(candidates[:SHOWN], 1):
        stage.log(
            f"No.{place}: {list(candidate.nev)} MACs = {candidate.macs_paper:.2f}M, Top-1 = {candidate.top1:.2f},"
            f" reward = {candidate.reward:.4f}"
        )
    return candidates


def window_of(settings: Searching, cost: SpaceCost, recipe: Recipe, limits: tuple[int, int] = ALL_SCALES) -> MacsWindow:
    """--target-macs, else --macs-min and --macs-max with the recipe's window as their defaults, else the recipe's target."""
    given = settings.macs_min is not None or settings.macs_max is not None
    if settings.target_macs is not None or (recipe.macs_max is None and not given):
        return target_window(cost, Target(settings.target_macs or recipe.target), limits)
    least = (0.0 if given else recipe.macs_min) if settings.macs_min is None else settings.macs_min
    most = (None if given else recipe.macs_max) if settings.macs_max is None else settings.macs_max
    ceiling = int(cost.macs([cost.space.unpruned])[0])
    return MacsWindow(round(least * MILLION), ceiling if most is None else round(most * MILLION), PAPER)


def reward_of(settings: Searching, space: SearchSpace) -> RewardSettings:
    """The reward's constants. Raises UserError for values that make no sense, before anything is evaluated."""
    base_macs = RewardSettings.of_space(space).base_macs if settings.base_macs is None else settings.base_macs
    reward = RewardSettings(settings.base_acc, base_macs, settings.acc_power, settings.macs_power)
    reward.reward(0.0, base_macs)
    return reward


def build_evaluator(settings: Search, net: PruningNet, data: DataBundle, stage: Stage) -> CandidateEvaluator:
    held, how = data.holdout(settings.holdout, HOLDOUT_SEED), settings.searching
    return CandidateEvaluator(
        net,
        held.train,
        data.test if how.select_on == "test" else held.test,
        stage.device,
        how.calibration_batches,
        how.batch_size,
        stage.seed,
        settings.data.workers,
        settings.precision.amp,
    )


def digest_of(net: PruningNet, data: DataBundle) -> str:
    """What a search depends on: a digest of the PruningNet's tensors."""
    return TrainedModel(net.space.arch, net, data).digest


def discard(folder: Path) -> None:
    """Delete what an earlier search left."""
    for file in [*folder.glob(PATTERN), folder / SEARCH_FILE]:
        file.unlink(missing_ok=True)
