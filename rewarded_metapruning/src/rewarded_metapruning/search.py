"""Stage 2: search for the encoding vectors with the largest reward, in one process or several (torchrun)."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_csv
from common.checkpoint import read_checkpoint
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.runs import LOG, open_run
from common.trained import Trained
from rewarded_metapruning.cost import CONV_LINEAR, MILLION, PAPER, SpaceCost, space_cost
from rewarded_metapruning.evolution import Breeder, Budget, Plan
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.options import (
    CHECKPOINT,
    HOLDOUT_SEED,
    PACKAGE,
    PRUNING_NET,
    SEARCH,
    add_network_options,
    load_pictures,
    network_of,
    require_file,
    scale_limits,
    space_of,
    with_dashes,
    without,
)
from rewarded_metapruning.ranking import Candidate, Terms, ranked, run_search
from rewarded_metapruning.recipes import Recipe, recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import SEARCH_FILE, read_search, write_search
from rewarded_metapruning.tested import PATTERN, Tested

TOLERANCE = 0.02  # a target of MACs is met within [0.98, 1.00] of it
SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser(network: str) -> cli.Parser:
    parser = cli.Parser(prog="search.py", description="Stage 2: search by reward.", package=PACKAGE)
    recipe, plan = recipe_of(network), Plan()
    add_network_options(parser, network, "those that the PruningNet was trained on")
    group = parser.add_argument_group("search")
    group.add_argument(
        "--net-cache",
        default=f"{PRUNING_NET}/{CHECKPOINT}",
        help="the PruningNet: checkpoint.pth.tar or model.safetensors",
    )
    group.add_argument("--max-iters", type=cli.positive_int, default=20, help="generations")
    group.add_argument("--out", default=SEARCH, help=f"folder of {SEARCH_FILE}")
    group.add_argument("--population", type=int, default=plan.population, help="candidates a generation")
    group.add_argument("--parents", type=int, default=plan.parents, help="best candidates so far that breed")
    group.add_argument(
        "--mutants", type=int, default=None, help="mutants a generation; half of the population if not given"
    )
    group.add_argument(
        "--crossovers", type=int, default=None, help="crossovers a generation; half of the population if not given"
    )
    group.add_argument("--mutation", type=float, default=plan.mutation, help="probability that a mutant's gene changes")
    group.add_argument("--macs-min", type=float, default=None, help="least MACs in millions, by the paper's rule")
    group.add_argument("--macs-max", type=float, default=None, help="most MACs in millions, by the paper's rule")
    group.add_argument(
        "--target-macs", type=cli.fraction, default=None, metavar="F",
        help="share of the unpruned MACs (convolutions and linear layers) to keep: candidates lie within [0.98 F, F]",
    )  # fmt: skip
    group.add_argument(
        "--base-acc", type=float, default=recipe.base_accuracy, help="the reward's base accuracy, percent"
    )
    group.add_argument(
        "--base-macs",
        type=float,
        default=recipe.base_macs,
        help="the reward's base MACs, millions; the unpruned network's if not given",
    )
    group.add_argument("--acc-power", type=float, default=2.0, help="exponent of the accuracy coefficient")
    group.add_argument("--macs-power", type=float, default=1.0, help="exponent of the efficiency coefficient")
    group.add_argument(
        "--select-on", choices=("holdout", "test"), default="holdout",
        help="pictures that candidates are judged on: held out from the training set, or, as the original, the test set",
    )  # fmt: skip
    group.add_argument(
        "--calibration-batches",
        type=cli.positive_int,
        default=recipe.calibration[0],
        help="batches that norms are calibrated with",
    )
    group.add_argument("--batch-size", type=cli.positive_int, default=recipe.calibration[1], help="pictures in each")
    group.add_argument("--plots", action="store_true", help="draw rewards by generation and accuracy against MACs")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    words = with_dashes(argv)
    args = build_parser(network_of(words)).parse_args(words)
    plan = plan_of(args)
    if args.target_macs is not None and (args.macs_min is not None or args.macs_max is not None):
        raise UserError("give --target-macs, or --macs-min and --macs-max, not both")
    set_threads(args.threads)
    device = choose_device(args.device)
    cache = require_file(args.net_cache, "train.py makes it; --net-cache names another place")
    with process_group(device):
        data = load_pictures(args)
        if cache.suffix == ".safetensors" and args.normalize is None:
            known = read_checkpoint(cache)[0].get("normalize")
            data = data.with_normalization(known["mean"], known["std"]) if known else data
        space = space_of(args.arch, data)
        cost = space_cost(space)
        budget, terms = budget_of(args, cost, recipe_of(args.arch)), terms_of(args, cost)
        saved = read_pruning_net(cache, space)
        limits = scale_limits(args, saved.limits or ALL_SCALES)
        saved.require_trained_on(limits)
        args.scales = list(limits)  # what the run folder remembers
        breeder = Breeder(space, cost, budget, plan, args.seed, limits)
        net = saved.net.to(device)
        judge = judge_of(args, net, data, device)
        folder = Path(args.out)
        options = {
            **without(args, "out", "max_iters", "plots", "net_cache"),
            "pruning_net": Trained(net, data, space.arch).digest,
        }
        if args.force and is_main():
            discard(folder)
        barrier()
        open_run(folder, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=args.force)
        head = {
            "arch": space.arch, "num_classes": space.num_classes, "shape": list(space.shape), "dataset": data.name,
            "selected_on": args.select_on, "seed": args.seed, "scales": args.scales, "base_accuracy": terms.base_accuracy,
            "base_macs": terms.base_macs, "accuracy_power": terms.accuracy_power, "macs_power": terms.macs_power,
            "budget": {"rule": budget.rule, "least": budget.least, "most": budget.most}, "pruning_net": options["pruning_net"],
        }  # fmt: skip
        search(folder, head, breeder, cost, terms, judge, args.max_iters, device)
        if args.plots and is_main():
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


def plan_of(args: argparse.Namespace) -> Plan:
    half = args.population // 2
    mutants = half if args.mutants is None else args.mutants
    crossovers = half if args.crossovers is None else args.crossovers
    return Plan(args.population, args.parents, mutants, crossovers if args.parents > 1 else 0, args.mutation)


def budget_of(args: argparse.Namespace, cost: SpaceCost, recipe: Recipe) -> Budget:
    """--target-macs, else --macs-min and --macs-max with the recipe's window as their defaults, else the recipe's target."""
    given = args.macs_min is not None or args.macs_max is not None
    if args.target_macs is not None or (recipe.macs_max is None and not given):
        return target_budget(cost, args.target_macs or recipe.target)
    for name in ("macs_min", "macs_max"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: millions of MACs, not negative")
    least = (0.0 if given else recipe.macs_min) if args.macs_min is None else args.macs_min
    most = (None if given else recipe.macs_max) if args.macs_max is None else args.macs_max
    ceiling = int(cost.macs([cost.space.unpruned])[0])
    return Budget(round(least * MILLION), ceiling if most is None else round(most * MILLION), PAPER)


def target_budget(cost: SpaceCost, target: float) -> Budget:
    """[0.98, 1.00] of a share of the unpruned network's MACs, convolutions and linear layers."""
    dense = int(cost.macs([cost.space.unpruned], CONV_LINEAR)[0])
    return Budget(-int(-(1 - TOLERANCE) * target * dense // 1), int(target * dense), CONV_LINEAR)


def terms_of(args: argparse.Namespace, cost: SpaceCost) -> Terms:
    base_macs = int(cost.macs([cost.space.unpruned])[0]) / MILLION if args.base_macs is None else args.base_macs
    terms = Terms(args.base_acc, base_macs, args.acc_power, args.macs_power)
    terms.reward(0.0, base_macs)  # refuses constants that make no sense before anything is judged
    return terms


def judge_of(args: argparse.Namespace, net, data: DataBundle, device: torch.device) -> Judge:
    held = data.holdout(args.holdout, HOLDOUT_SEED)
    pictures = data.test if args.select_on == "test" else held.test
    return Judge(
        net, held.train, pictures, device, args.calibration_batches, args.batch_size, args.seed, args.workers, args.amp
    )  # fmt: skip


def discard(folder: Path) -> None:
    """What an earlier search left."""
    for file in [*folder.glob(PATTERN), folder / SEARCH_FILE]:
        file.unlink(missing_ok=True)


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
