"""Stage 3: train the network of a vector, from scratch as the paper does or from its generated weights; and what to hold it against.

With --beside the unpruned network, and random vectors of the same budget, are trained in the same way.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import cli
from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import Say
from common.measure import measure_files
from common.results import markdown_table, padded
from common.runs import open_run
from common.training import Hooks, TrainOptions, best_test_top1, fit
from rewarded_metapruning.cost import CONV_LINEAR, MILLION, PAPER, named_nev, space_cost
from rewarded_metapruning.evolution import Breeder, Budget, Plan
from rewarded_metapruning.files import read_pruning_net, write_flat
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.options import (
    CHECKPOINT,
    FINAL,
    HOLDOUT_SEED,
    PACKAGE,
    PRUNING_NET,
    SEARCH,
    add_network_options,
    add_recipe_options,
    load_pictures,
    network_of,
    recipe_from,
    require_file,
    scale_limits,
    space_of,
    with_dashes,
    without,
)
from rewarded_metapruning.recipes import recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.search_file import SEARCH_FILE, nev_of_rank, searched_scales
from rewarded_metapruning.space import NEV, Space, aligned
from rewarded_metapruning.train import is_weight

UNPRUNED, RANDOM, CHOSEN = "unpruned", "random", "chosen"
WINDOW = 0.02  # random vectors cost as much as the chosen one, or up to this share less


@dataclass(frozen=True)
class Contender:
    """A network that is trained: its role, its vector, the folder of its run."""

    role: str
    nev: NEV
    folder: Path


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser(network: str) -> cli.Parser:
    parser = cli.Parser(prog="evaluate.py", description="Stage 3: train a chosen network.", package=PACKAGE)
    add_network_options(parser, network, "those of the search file; all with --nev")
    add_recipe_options(parser, recipe_of(network).final)
    group = parser.add_argument_group("vector")
    group.add_argument("--nev", default=None, help="14,14,... or [14, 14, ...] or published or unpruned")
    group.add_argument("--nev-file", default=None, help=f"a {SEARCH_FILE}; {SEARCH}/{SEARCH_FILE} if neither is given")
    group.add_argument("--rank", type=cli.positive_int, default=1, help="which candidate of the file; 1 is the best")
    group.add_argument(
        "--rotated", action="store_true", help="MobileNetV1 as the original builds it, each entry one layer later"
    )
    group.add_argument(
        "--init",
        choices=("scratch", "generated"),
        default="scratch",
        help="start from new weights, or the PruningNet's",
    )
    group.add_argument("--net-cache", default=f"{PRUNING_NET}/{CHECKPOINT}", help="the PruningNet for --init generated")
    group.add_argument(
        "--beside", nargs="+", default=[], metavar="WHAT", help="train these too: unpruned, random, random:3 (vectors of the same budget)"
    )  # fmt: skip
    parser.add_argument("--save", default=FINAL, help="folder of the run folders")
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    words = with_dashes(argv)
    args = build_parser(network_of(words)).parse_args(words)
    recipe = recipe_from(args)
    unpruned, count = wanted_beside(args.beside)
    set_threads(args.threads)
    device = choose_device(args.device)
    if args.init == "generated":
        require_file(args.net_cache, "train.py makes it; --net-cache names another place")
    if args.nev is None:
        require_file(nev_file(args), "search.py makes it; or give the vector with --nev")
    with process_group(device):
        data = load_pictures(args)
        space = space_of(args.arch, data)
        nev = chosen_nev(args, space)
        limits = scale_limits(args, ALL_SCALES if args.nev is not None else searched_scales(nev_file(args)))
        args.scales = list(limits)  # what the run folders remember
        contenders = line_up(space, nev, Path(args.save), unpruned, count, args.seed, limits)
        options = without(args, "save", "beside", "nev", "nev_file", "rank", "net_cache", "tensorboard", "rotated")
        for contender in contenders:
            run_contender(
                contender, space, data, recipe, device, options, net_cache=Path(args.net_cache), seed=args.seed,
                workers=args.workers, force=args.force, say=say, tensorboard=args.tensorboard,
            )  # fmt: skip
        if is_main():
            chosen = contenders[-1]
            write_flat(Path(args.save), load_result(chosen.folder / "model.safetensors", space).state_dict())
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
    run = open_run(contender.folder, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=force)
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


def chosen_nev(args: argparse.Namespace, space: Space) -> NEV:
    nev = nev_of_rank(nev_file(args), args.rank, space) if args.nev is None else space.check(named_nev(space, args.nev))
    if args.rotated and space.arch != "mobilenetv1":
        raise UserError(f"--rotated is a form of mobilenetv1's vectors, not of {space.arch}'s")
    return aligned(nev) if args.rotated else nev


def factory_of(space: Space) -> Callable[[], nn.Module] | None:
    """What reading a saved network needs besides its file: nothing for a registered one."""
    return space.factory if space.own else None


def load_result(path: Path, space: Space) -> nn.Module:
    return load_model(path, factory_of(space))


def nev_file(args: argparse.Namespace) -> str:
    return args.nev_file or f"{SEARCH}/{SEARCH_FILE}"


def wanted_beside(words: Sequence[str]) -> tuple[bool, int]:
    """(the unpruned network, how many random vectors) of ``--beside``."""
    unpruned, count = False, 0
    for word in words:
        name, _, number = word.partition(":")
        if name == UNPRUNED and not number:
            unpruned = True
        elif name == RANDOM and (not number or number.isdigit()):
            count += int(number or 1)
        else:
            raise UserError(f"--beside {word}: expected unpruned, random or random:COUNT")
    return unpruned, count


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


if __name__ == "__main__":
    sys.exit(main())
