"""Options of the three commands: the original's, with its names and defaults, and ours beyond them."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common import cli
from common.data import DataBundle, load_dataset
from common.data.split import stratified_split
from common.errors import UserError
from common.factory import import_factory
from common.models import find_architecture
from common.training import TrainOptions, add_training_options, training_options
from rewarded_metapruning.own_network import own_space
from rewarded_metapruning.recipes import quarters
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.space import Space, find_space, known_architectures

PACKAGE = "rewarded_metapruning"
DATA_DIR = "./ImageNet2012"  # where the original's README wants ImageNet
PRUNING_NET = "./training/models"
SEARCH = "./searching"
FINAL = "./evaluating/models"
CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth.tar"  # the original's names; tensors only
HOLDOUT_SEED = 0  # the held-out pictures are the same for every --seed and every stage


def with_dashes(argv: Sequence[str] | None) -> list[str]:
    """The original writes --max_iters, we write --max-iters: both are understood."""
    words = list(sys.argv[1:] if argv is None else argv)
    spelt = []
    for word in words:
        name, equals, value = word.partition("=")
        spelt.append(f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else word)
    return spelt


def network_of(argv: Sequence[str], default: str = "resnet50") -> str:
    """--model or --arch, on which the defaults of other options depend. Raises UserError for an unknown one, or both."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--arch", default=None)
    parser.add_argument("--model", default=None)
    try:
        given = parser.parse_known_args(list(argv))[0]
    except SystemExit:
        raise UserError(
            f"--arch wants the name of a network ({', '.join(known_architectures())}), --model PACKAGE.MODULE:FACTORY"
        ) from None
    if given.model is not None:
        if given.arch is not None:
            raise UserError(f"give --arch {given.arch} or --model {given.model}, not both")
        import_factory(given.model)
        return given.model
    arch = given.arch or default
    find_architecture(arch)
    return arch


def add_network_options(parser: cli.Parser, network: str, scales: str = "all") -> None:
    """--arch, --model, --data and what common's commands have. scales: what --scales is if not given, for its help."""
    own = is_own(network)
    parser.add_argument("--arch", default=network, help=f"one of {', '.join(known_architectures())}")
    parser.add_argument(
        "--model", default=None, help="PACKAGE.MODULE:FACTORY, a callable that builds your own network: every channel group is a gene"
    )  # fmt: skip
    imagenet = not own and find_architecture(network).input_shape[1] == 224
    cli.add_data_options(parser, "imagenet" if imagenet else "digits", DATA_DIR if imagenet else None)
    parser.add_argument("--data", dest="dataset_dir", default=argparse.SUPPRESS, help="the same as --dataset-dir")
    parser.add_argument("-j", dest="workers", type=int, default=argparse.SUPPRESS, help="the same as --workers")
    parser.add_argument(
        "--pictures", type=cli.positive_int, default=None,
        help="train on this many of the training pictures only, equally many of each class",
    )  # fmt: skip
    parser.add_argument(
        "--holdout", type=float, default=0.1, help="share of the training pictures that the search selects on"
    )
    parser.add_argument(
        "--scales", type=int, nargs=2, default=None, metavar=("LOW", "HIGH"),
        help=f"least and largest entry of vectors that are drawn; if not given, {scales}",
    )  # fmt: skip
    cli.add_run_options(parser)


def is_own(network: str) -> bool:
    """Whether this is --model's PACKAGE.MODULE:FACTORY, not a registered name."""
    return ":" in network


def scale_limits(args: argparse.Namespace, default: tuple[int, int] = ALL_SCALES) -> tuple[int, int]:
    """The range of --scales. Raises UserError for one that is empty or outside 0..30."""
    low, high = default if args.scales is None else args.scales
    if not 0 <= low <= high <= FULL:
        raise UserError(f"--scales {low} {high}: two entries from 0 to {FULL}, the smaller one first")
    return low, high


def add_recipe_options(parser: cli.Parser, recipe: TrainOptions) -> None:
    """common's training options with a recipe's defaults, and the original's other spellings."""
    add_training_options(parser, replace(recipe, milestones=()))
    parser.add_argument(
        "--label-smooth", dest="label_smoothing", type=float, default=argparse.SUPPRESS, help="the same as --label-smoothing"
    )  # fmt: skip
    parser.add_argument(
        "--print-freq", type=int, default=None, help="accepted as the original's; a progress bar shows steps"
    )


def recipe_from(args: argparse.Namespace) -> TrainOptions:
    """The recipe as parsed; a multi-step schedule without milestones drops at each quarter, as the paper's."""
    options = training_options(args)
    if options.schedule == "multi-step" and not options.milestones:
        options = replace(options, milestones=quarters(options.epochs))
    return options


def load_pictures(args: argparse.Namespace) -> DataBundle:
    """The data set of the options; with --pictures a stratified part of its training pictures."""
    root = args.dataset_dir
    if root == DATA_DIR and args.dataset != "imagenet":
        root = None  # a default that belongs to ImageNet
    data = load_dataset(args.dataset, root, normalize=args.normalize)
    return part_of(data, args.pictures)


def part_of(data: DataBundle, pictures: int | None) -> DataBundle:
    """The bundle with only so many training pictures, stratified, always the same ones."""
    if pictures is None or pictures == len(data.train):
        return data
    if pictures > len(data.train):
        raise UserError(f"--pictures {pictures}: {data.name} has only {len(data.train)} training pictures")
    _, chosen = stratified_split(data.train.labels, pictures, HOLDOUT_SEED)
    return replace(data, train=data.train.subset(chosen), fingerprint=f"{data.fingerprint}-{pictures}")


def space_of(arch: str, data: DataBundle) -> Space:
    """The network's space for these pictures. Raises UserError if it does not read pictures of their size, or, for a user's own
    network, if no PruningNet can be made for it.
    """
    if is_own(arch):
        return own_space(arch, data.num_classes, data.input_shape)
    own, shape = find_architecture(arch).input_shape, data.input_shape
    if own[1] == 224 and shape[1] != 224:
        raise UserError(
            f"{arch} reads 224 x 224 pictures, {data.name} has {shape[2]} x {shape[1]}; take {arch}-small or resnet-small"
        )
    return find_space(arch, data.num_classes, shape)


def without(args: argparse.Namespace, *names: str) -> dict:
    """The options that a run's result depends on."""
    return {name: value for name, value in vars(args).items() if name not in ("print_freq", *names)}


def require_file(path: Path | str, advice: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {advice}")
    return Path(path)
