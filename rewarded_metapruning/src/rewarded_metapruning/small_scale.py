"""The paper's claim at small scale: is the searched vector better than random ones of the same budget? All three stages per seed.

python -m rewarded_metapruning.small_scale --dataset-dir data/cifar10 --seeds 0 1 2 3 4

Per seed: a PruningNet, a search on held-out training pictures, then the chosen network, random ones of the same budget and the
unpruned one trained in the same way for equally long. One result file per seed; what is finished is skipped.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_json
from common.data import DataBundle, load_dataset
from common.device import choose_device, set_threads
from common.errors import UserError
from common.runs import describe_environment, open_run, read_json
from common.trained import Trained
from common.training import TrainOptions
from common.training.options import OPTIMIZERS
from rewarded_metapruning.cost import CONV_LINEAR, MILLION, space_cost
from rewarded_metapruning.evaluate import line_up, run_contender
from rewarded_metapruning.evolution import Breeder, Plan
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.options import HOLDOUT_SEED, PACKAGE, part_of, scale_limits, space_of
from rewarded_metapruning.ranking import Terms
from rewarded_metapruning.recipes import SMALL, with_epochs
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.search import search, target_budget
from rewarded_metapruning.search_file import SEARCH_FILE, read_search
from rewarded_metapruning.train import train_pruning_net

HOME = Path(__file__).resolve().parents[2]
HOLDOUT = 0.1
PLAN = Plan(population=20, parents=6, mutants=10, crossovers=10)
CALIBRATION = (8, 125)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m rewarded_metapruning.small_scale",
        description="Searched against random vectors.",
        package=PACKAGE,
    )
    parser.add_argument("--arch", default="resnet-small", help="the network")
    cli.add_data_options(parser, "cifar10")
    cli.add_run_options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="instead of --seed: all of these")
    parser.add_argument("--pictures", type=cli.positive_int, default=10_000, help="training pictures")
    parser.add_argument("--target-macs", type=cli.fraction, default=0.5, help="share of the unpruned MACs")
    parser.add_argument("--meta-epochs", type=cli.positive_int, default=12, help="epochs of the PruningNet")
    parser.add_argument("--epochs", type=cli.positive_int, default=10, help="epochs of each network")
    parser.add_argument("--generations", type=cli.positive_int, default=8, help="generations of the search")
    parser.add_argument(
        "--scales", type=int, nargs=2, default=list(ALL_SCALES), metavar=("LOW", "HIGH"), help="entries that are drawn"
    )
    parser.add_argument("--meta-optimizer", choices=OPTIMIZERS, default="sgd", help="that of the PruningNet")
    parser.add_argument("--meta-learning-rate", type=float, default=SMALL.meta.learning_rate, help="of the PruningNet")
    parser.add_argument("--random", type=int, default=2, help="random vectors per seed")
    parser.add_argument("--out", default="runs/small-scale", help="folder of the run folders")
    parser.add_argument("--results", default=str(HOME / "results"), help="folder of the result files")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    if args.random < 1:
        raise UserError(f"--random {args.random}: at least one, else there is nothing to compare with")
    data = part_of(load_dataset(args.dataset, args.dataset_dir, normalize=args.normalize), args.pictures)
    command = cli.command_line("python -m rewarded_metapruning.small_scale", argv)
    for seed in args.seeds:
        file = Path(args.results) / f"small-{label_of(args, data)}-seed{seed}.json"
        if file.is_file() and not args.force:
            print(f"{file} is there already")
            continue
        record = one_seed(args, data, seed, device)
        write_json(file, {"command": command.strip(), **record, "environment": describe_environment(device)})
        print(f"{file}: " + ", ".join(f"{n['role']} {n['top1']:.2f} %" for n in record["networks"]), flush=True)


def label_of(args: argparse.Namespace, data: DataBundle) -> str:
    """What files and folders of one setting are called."""
    low, high = scale_limits(args)
    name = data.name.rsplit("/", 1)[-1]  # of folder:PATH
    label = f"{args.arch}-{name}" + ("" if (low, high) == ALL_SCALES else f"-scales{low}-{high}")
    return label if args.meta_optimizer == "sgd" else f"{label}-{args.meta_optimizer}"


def one_seed(args: argparse.Namespace, data: DataBundle, seed: int, device: torch.device) -> dict[str, Any]:
    """All three stages with one seed: what the result file holds."""
    folder, limits = Path(args.out) / f"{label_of(args, data)}-seed{seed}", scale_limits(args)
    space = space_of(args.arch, data)
    cost, held = space_cost(space), data.holdout(HOLDOUT, HOLDOUT_SEED)
    meta, final = (
        replace(with_epochs(r, e), amp=args.amp)
        for r, e in ((SMALL.meta, args.meta_epochs), (SMALL.final, args.epochs))
    )
    decay = 0.0 if args.meta_optimizer == "adam" else meta.weight_decay
    meta = replace(meta, optimizer=args.meta_optimizer, learning_rate=args.meta_learning_rate, weight_decay=decay)
    breeder = Breeder(space, cost, target_budget(cost, args.target_macs), PLAN, seed, limits)
    options = {
        "arch": space.arch,
        "dataset": data.name,
        "pictures": args.pictures,
        "seed": seed,
        "scales": list(limits),
    }
    run = open_run(
        folder / "pruning-net", PACKAGE, {**options, **asdict(meta)}, device=device, fingerprint=held.fingerprint, force=args.force
    )  # fmt: skip
    trained = train_pruning_net(run, space, held, meta, device, seed, args.workers, limits=limits)
    net = read_pruning_net(run.model_path, space).net.to(device)
    judge = Judge(net, held.train, held.test, device, *CALIBRATION, seed=seed, workers=args.workers, amp=args.amp)
    terms = Terms(base_macs=int(cost.macs([space.unpruned])[0]) / MILLION)
    digest = Trained(net, data, space.arch).digest
    searched = open_run(
        folder / "search", PACKAGE, {**options, "pruning_net": digest, "target": args.target_macs, **asdict(PLAN)},
        device=device, fingerprint=held.fingerprint, force=args.force,
    )  # fmt: skip
    head = {**options, "selected_on": "holdout", **asdict(terms), "target": args.target_macs}
    best = search(searched.folder, head, breeder, cost, terms, judge, args.generations, device)[0]
    content = read_search(searched.folder / SEARCH_FILE)
    contenders = line_up(space, best.nev, folder / "networks", True, args.random, seed, limits)
    networks = []
    for contender in contenders:
        metrics = run_contender(
            contender, space, data, final, device, {**options, **asdict(final)}, seed=seed, workers=args.workers,
            force=args.force, latency=False,
        )  # fmt: skip
        side = metrics["compressed"]
        entry = {"role": contender.role, "nev": list(contender.nev), "judged_top1": round(judge(contender.nev).top1, 4)}
        entry |= {key: side[key] for key in ("top1", "loss", "macs", "macs_paper", "params")}
        networks.append({**entry, "seconds": metrics["seconds"]})
    return {
        **options, "shape": list(space.shape), "target": args.target_macs, "rule": CONV_LINEAR,
        "meta": {**_recipe(meta), "unpruned_top1": trained["unpruned_top1"], "seconds": trained["seconds"]},
        "search": {**asdict(PLAN), "generations": args.generations, "held_out": len(held.test), **_history(content)},
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


def setting_of(record: dict[str, Any]) -> str:
    """What a result was made with, for tables: network, data, entries that were drawn, the PruningNet's optimiser."""
    low, high = record.get("scales", ALL_SCALES)
    drawn = "all entries" if (low, high) == (0, FULL) else f"entries {low} to {high}"
    return f"{record['arch']} on {record['dataset']}, {drawn}, {record['meta'].get('optimizer', 'sgd').replace('sgd', 'SGD').replace('adam', 'Adam')}"


def results(folder: Path = HOME / "results") -> list[dict[str, Any]]:
    """Every result file, in order of network and seed."""
    return sorted((read_json(f) for f in folder.glob("small-*.json")), key=lambda r: (setting_of(r), r["seed"]))


if __name__ == "__main__":
    sys.exit(main())
