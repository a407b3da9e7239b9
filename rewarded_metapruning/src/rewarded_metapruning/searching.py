"""Stage 2: search for the encoding vectors with the largest reward, in one process or several (torchrun)."""

import time
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_csv
from common.checkpoint import read_checkpoint
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.runs import LOG, open_stage
from common.trained import Trained
from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.evolution import Breeder, Budget
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import load_images, require_file, require_network, space_of
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.ranking import Candidate, Terms, ranked, run_search
from rewarded_metapruning.recipes import Recipe, recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import read_search, write_search
from rewarded_metapruning.settings import (
    CONV_LINEAR,
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
from rewarded_metapruning.tested import PATTERN, Tested

TOLERANCE = 0.02  # a target of MACs is met within [0.98, 1.00] of it
SHOWN = 10


def search_command(settings: Search) -> None:
    """The command: search.json in --out, from a PruningNet's file."""
    how, seed, force = settings.searching, settings.repeat.seed, settings.repeat.force
    arch = settings.network.name
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
        cost = space_cost(space)
        budget, terms = budget_of(how, cost, recipe_of(arch)), terms_of(how, cost)
        saved = read_pruning_net(cache, space)
        limits = scale_limits(settings.scales, saved.limits or ALL_SCALES)
        saved.require_trained_on(limits)
        breeder = Breeder(space, cost, budget, how.plan, seed, limits)
        net = saved.net.to(device)
        judge = judge_of(settings, net, data, device)
        folder = Path(how.out)
        digest = Trained(net, data, space.arch).digest
        options = recorded(
            settings, "out", "max_iters", "plots", "net_cache", scales=list(limits), pruning_net=digest, compile=False
        )
        if force and is_main():
            discard(folder)
        barrier()
        open_stage(folder, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=force)
        head = {
            "arch": space.arch, "num_classes": space.num_classes, "shape": list(space.shape), "dataset": data.name,
            "selected_on": how.select_on, "seed": seed, "scales": list(limits), "base_accuracy": terms.base_accuracy,
            "base_macs": terms.base_macs, "accuracy_power": terms.accuracy_power, "macs_power": terms.macs_power,
            "budget": {"rule": budget.rule, "least": budget.least, "most": budget.most}, "pruning_net": digest,
        }  # fmt: skip
        search(folder, head, breeder, cost, terms, judge, how.max_iters, device)
        if how.plots and is_main():
            from rewarded_metapruning import plots

            content = read_search(folder / SEARCH_FILE)
            plots.rewards(folder / "rewards.png", [content])
            plots.candidates(folder / "candidates.png", content)
            say(f"plots: {folder / 'rewards.png'}, {folder / 'candidates.png'}")


def search(
    folder: Path,
    head: dict[str, Any],
    breeder: Breeder,
    cost: SpaceCost,
    terms: Terms,
    judge: Judge,
    generations: int,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> list[Candidate]:
    """Search, or go on searching, and write search.json after every generation: the candidates, best first."""
    tested = Tested(folder, judge, device)
    tell = (lambda line: None) if quiet else say
    chosen_on = (
        "the TEST pictures, as the original does" if head["selected_on"] == "test" else "held-out training pictures"
    )
    tell(f"{head['arch']}: candidates are judged on {chosen_on}; {len(tested.known)} are known already")
    rows: list[dict[str, Any]] = []
    started = time.monotonic()

    def after_generation(number: int, candidates: list[Candidate]) -> None:
        nonlocal started
        of_this = [c for c in candidates if c.generation == number]
        best, middle = ranked(candidates)[0], ranked(of_this)[len(of_this) // 2]
        row = {
            "generation": number, "tested": len(candidates), "best_reward": round(best.reward, 6),
            "median_reward": round(middle.reward, 6), "best_top1": best.top1, "best_macs_paper": best.macs_paper,
            "seconds": round(time.monotonic() - started, 2),
        }  # fmt: skip
        rows.append(row)
        started = time.monotonic()
        tell(
            f"generation {number + 1} of {generations}: best reward {best.reward:.4f} ({best.top1:.2f} %,"
            f" {best.macs_paper:.3f} M), median of this one {middle.reward:.4f}, {row['seconds']:.1f} s"
        )
        if is_main():
            write_search(
                folder / SEARCH_FILE, {**head, "generations": number + 1}, candidates, number + 1 == generations
            )
            write_csv(folder / LOG, rows)

    candidates = ranked(run_search(breeder, cost, terms, tested.judge_all, generations, after_generation))
    barrier()
    tell(f"the best {min(SHOWN, len(candidates))} of {len(candidates)}, in {folder / SEARCH_FILE}:")
    for place, candidate in enumerate(candidates[:SHOWN], 1):
        tell(
            f"No.{place}: {list(candidate.nev)} MACs = {candidate.macs_paper:.2f}M, Top-1 = {candidate.top1:.2f},"
            f" reward = {candidate.reward:.4f}"
        )
    return candidates


def budget_of(settings: Searching, cost: SpaceCost, recipe: Recipe) -> Budget:
    """--target-macs, else --macs-min and --macs-max with the recipe's window as their defaults, else the recipe's target."""
    given = settings.macs_min is not None or settings.macs_max is not None
    if settings.target_macs is not None or (recipe.macs_max is None and not given):
        return target_budget(cost, settings.target_macs or recipe.target)
    least = (0.0 if given else recipe.macs_min) if settings.macs_min is None else settings.macs_min
    most = (None if given else recipe.macs_max) if settings.macs_max is None else settings.macs_max
    ceiling = int(cost.macs([cost.space.unpruned])[0])
    return Budget(round(least * MILLION), ceiling if most is None else round(most * MILLION), PAPER)


def target_budget(cost: SpaceCost, target: float) -> Budget:
    """[0.98, 1.00] of a share of the unpruned network's MACs, convolutions and linear layers."""
    dense = int(cost.macs([cost.space.unpruned], CONV_LINEAR)[0])
    return Budget(-int(-(1 - TOLERANCE) * target * dense // 1), int(target * dense), CONV_LINEAR)


def terms_of(settings: Searching, cost: SpaceCost) -> Terms:
    """The reward's constants. Raises UserError for values that make no sense, before anything is judged."""
    dense = int(cost.macs([cost.space.unpruned])[0]) / MILLION
    base_macs = dense if settings.base_macs is None else settings.base_macs
    terms = Terms(settings.base_acc, base_macs, settings.acc_power, settings.macs_power)
    terms.reward(0.0, base_macs)
    return terms


def judge_of(settings: Search, net: PruningNet, data: DataBundle, device: torch.device) -> Judge:
    held, how = data.holdout(settings.holdout, HOLDOUT_SEED), settings.searching
    pictures = data.test if how.select_on == "test" else held.test
    return Judge(
        net, held.train, pictures, device, how.calibration_batches, how.batch_size, settings.repeat.seed,
        settings.data.workers, settings.precision.amp,
    )  # fmt: skip


def discard(folder: Path) -> None:
    """What an earlier search left."""
    for file in [*folder.glob(PATTERN), folder / SEARCH_FILE]:
        file.unlink(missing_ok=True)


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)
