"""Options of all commands: those of the original code, with its names and defaults, and additional ones. Nothing here imports torch."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from common import cli, options
from common.cli import fraction, nonnegative_int, positive_int
from common.errors import UserError
from common.options import RepeatOptions, RunningOptions, RunOptions, train_options
from common.settings import flat, option, parse, section, settings
from common.training.options import TrainOptions
from rewarded_metapruning.recipes import SMALL, SearchSettings, quarters, recipe_of
from rewarded_metapruning.scale import ALL_SCALES, FULL

PACKAGE = "rewarded_metapruning"
DATA_DIR = "./ImageNet2012"  # where the original's README wants ImageNet
PRUNING_NET = "./training/models"
SEARCH = "./searching"
FINAL = "./evaluating/models"
CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth.tar"  # the original's names; tensors only
SEARCH_FILE = "search.json"
HOLDOUT_SEED = 0  # the held-out images are the same for every --seed and every stage
PAPER, CONV_LINEAR = "rewarded_metapruning", "conv_linear"  # rules of common.cost
MILLION = 1e6
UNPRUNED, RANDOM, CHOSEN = "unpruned", "random", "chosen"  # roles of the networks that stage 3 trains
INITS = ("scratch", "generated")
SELECTIONS = ("holdout", "test")

IMAGENET_NETWORKS = ("resnet50", "mobilenetv1", "mobilenetv2")  # the paper's
DESCRIBED = (*IMAGENET_NETWORKS, "resnet-small", "mobilenetv1-small", "mobilenetv2-small")  # in genes.py
# Those that have a description, then those of the CIFAR ones that serve by their channel groups.
KNOWN_NETWORKS = (
    *DESCRIBED,
    *(
        name
        for name in options.ARCHITECTURE_NAMES
        if (name.startswith("resnet") or name == "vgg16") and name not in DESCRIBED
    ),
)
VECTOR = "14,14,... or [14, 14, ...] or published or unpruned"


@settings
class NetworkOptions:
    """Network."""

    arch: str = option("resnet50", f"one of {', '.join(KNOWN_NETWORKS)}")
    model: str | None = option(
        None, "PACKAGE.MODULE:FACTORY, a callable that builds your own network: every channel group is a gene"
    )

    @property
    def name(self) -> str:
        """The network that is meant: PACKAGE.MODULE:FACTORY, or a registered name."""
        return self.model or self.arch


@settings
class DataOptions(options.DataOptions):
    """Data."""

    dataset_dir: str | None = option(None, "folder of the data set; digits needs none", "--dataset-dir", "--data")
    workers: int = option(
        2, "processes that read images which do not fit in memory", "--workers", "-j", type=nonnegative_int, free=True
    )
    pictures: int | None = option(
        None, "train on this many of the training images only, equally many of each class", type=positive_int
    )


@settings
class PrecisionOptions:
    """Precision."""

    amp: bool = option(False, "automatic mixed precision (bfloat16)")


@settings
class TrainingOptions(options.TrainingOptions):
    """Training."""

    label_smoothing: float = option(0.0, "label smoothing", "--label-smoothing", "--label-smooth")


def holdout_option() -> Any:
    return option(0.1, "fraction of the training images that the search selects on")


def scales_option(default: str) -> Any:
    return option(
        None,
        f"least and largest entry of vectors that are sampled; if not given, {default}",
        nargs=2,
        metavar=("LOW", "HIGH"),
    )


def tensorboard_option() -> Any:
    return option(None, "folder for TensorBoard", free=True)


def net_cache_option(help: str) -> Any:
    return option(f"{PRUNING_NET}/{CHECKPOINT}", help, free=True)


@settings
class TrainingStage:
    """A stage that trains."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    scales: list[int] | None = scales_option("all")
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    training: TrainingOptions = section(TrainingOptions)
    running: RunningOptions = section(RunningOptions)
    tensorboard: str | None = tensorboard_option()

    def __post_init__(self) -> None:
        scale_limits(self.scales)
        _ = self.recipe

    @property
    def recipe(self) -> TrainOptions:
        """The training of the PruningNet, or of each network. Raises UserError for options out of range."""
        return _with_quarters(train_options(self.training, self.running, self.precision))


@settings
class Train(TrainingStage):
    """Stage 1: train a PruningNet."""

    holdout: float = holdout_option()
    save: str = option(PRUNING_NET, "run folder of the PruningNet", free=True)

    @staticmethod
    def usual(network: str) -> dict[str, Any]:
        """Defaults that depend on the network."""
        return _recipe_defaults(recipe_of(network).meta)


@settings
class Searching:
    """Search."""

    net_cache: str = net_cache_option("the PruningNet: checkpoint.pth.tar or model.safetensors")
    max_iters: int = option(20, "generations", type=positive_int, free=True)
    out: str = option(SEARCH, f"folder of {SEARCH_FILE}", free=True)
    population: int = option(SearchSettings.population, "candidates a generation")
    parents: int = option(SearchSettings.parents, "best candidates so far that breed")
    mutants: int | None = option(None, "mutants a generation; half of the population if not given")
    crossovers: int | None = option(None, "crossovers a generation; half of the population if not given")
    mutation: float = option(SearchSettings.mutation, "probability that a mutant's gene changes")
    macs_min: float | None = option(None, "least MACs in millions, by the paper's rule")
    macs_max: float | None = option(None, "most MACs in millions, by the paper's rule")
    target_macs: float | None = option(
        None,
        "fraction F of the unpruned MACs (convolutions and linear layers) to keep: candidates lie within [0.98 F, F]",
        type=fraction,
        metavar="F",
    )
    base_acc: float = option(SMALL.base_accuracy, "the reward's base accuracy, percent")
    base_macs: float | None = option(
        SMALL.base_macs, "the reward's base MACs, millions; the unpruned network's if not given"
    )
    acc_power: float = option(2.0, "exponent of the accuracy coefficient")
    macs_power: float = option(1.0, "exponent of the efficiency coefficient")
    select_on: str = option(
        "holdout",
        "images that candidates are judged on: held out from the training set, or, as the original, the test set",
        choices=SELECTIONS,
    )
    calibration_batches: int = option(SMALL.calibration[0], "batches that norms are calibrated with", type=positive_int)
    batch_size: int = option(SMALL.calibration[1], "images in each", type=positive_int)
    plots: bool = option(False, "draw rewards by generation and accuracy against MACs", free=True)

    def __post_init__(self) -> None:
        _ = self.sizes
        if self.target_macs is not None and (self.macs_min is not None or self.macs_max is not None):
            raise UserError("give --target-macs, or --macs-min and --macs-max, not both")
        for name, value in (("--macs-min", self.macs_min), ("--macs-max", self.macs_max)):
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} {value}: millions of MACs, not negative")

    @property
    def sizes(self) -> SearchSettings:
        """Sizes of the search. Raises UserError for ones that do not go together."""
        half = self.population // 2
        mutants = half if self.mutants is None else self.mutants
        crossovers = half if self.crossovers is None else self.crossovers
        return SearchSettings(
            self.population, self.parents, mutants, crossovers if self.parents > 1 else 0, self.mutation
        )


@settings
class Search:
    """Stage 2: search by reward."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    holdout: float = holdout_option()
    scales: list[int] | None = scales_option("those that the PruningNet was trained on")
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    searching: Searching = section(Searching)

    def __post_init__(self) -> None:
        scale_limits(self.scales)

    @staticmethod
    def usual(network: str) -> dict[str, Any]:
        """Defaults that depend on the network."""
        recipe = recipe_of(network)
        batches, size = recipe.calibration
        return {
            "base_acc": recipe.base_accuracy,
            "base_macs": recipe.base_macs,
            "calibration_batches": batches,
            "batch_size": size,
        }


@settings
class Vector:
    """Vector."""

    nev: str | None = option(None, VECTOR, free=True)
    nev_file: str | None = option(None, f"a {SEARCH_FILE}; {SEARCH}/{SEARCH_FILE} if neither is given", free=True)
    rank: int = option(1, "which candidate of the file; 1 is the best", type=positive_int, free=True)
    rotated: bool = option(False, "MobileNetV1 as the original builds it, each entry one layer later", free=True)
    init: str = option("scratch", "start from new weights, or the PruningNet's", choices=INITS)
    net_cache: str = net_cache_option("the PruningNet for --init generated")
    beside: list[str] = option(
        [], "train these too: unpruned, random, random:3 (vectors of the same budget)", metavar="WHAT", free=True
    )

    def __post_init__(self) -> None:
        wanted_beside(self.beside)

    @property
    def file(self) -> str:
        """The search file that the vector is taken from if it is not given itself."""
        return self.nev_file or f"{SEARCH}/{SEARCH_FILE}"


@settings
class Evaluate(TrainingStage):
    """Stage 3: train a chosen network."""

    scales: list[int] | None = scales_option("those of the search file; all with --nev")
    precision: options.PrecisionOptions = section(options.PrecisionOptions)  # type: ignore[assignment]  # --compile, too
    vector: Vector = section(Vector)
    save: str = option(FINAL, "folder of the run folders", free=True)

    @staticmethod
    def usual(network: str) -> dict[str, Any]:
        """Defaults that depend on the network."""
        return _recipe_defaults(recipe_of(network).final)


@settings
class Cost:
    """Widths, MACs and parameters of an encoding vector."""

    network: NetworkOptions = section(NetworkOptions)
    input_shape: list[int] | None = option(
        None, "of one image; the network's own", nargs=3, type=positive_int, metavar=("C", "H", "W")
    )
    nev: str = option(UNPRUNED, VECTOR)
    rotated: bool = option(False, "MobileNetV1 as the original's evaluation builds it")
    num_classes: int | None = option(None, "1000 for ImageNet's networks, else 10", type=positive_int)
    json: str | None = option(None, "write the figures to this file too")

    def __post_init__(self) -> None:
        if self.network.model is not None and self.input_shape is None:
            raise UserError("say what your own network reads: --input-shape 3 224 224")


Stage = TypeVar("Stage", Train, Search, Evaluate)


def stage_command(
    cls: type[Stage], body: Callable[[Stage], None], argv: Sequence[str] | None, prog: str | None = None
) -> int:
    """:func:`common.settings.command` for a stage, whose defaults depend on the network; an exit status."""
    return cli.run(lambda words: body(parse_stage(cls, words, prog)), argv)


def parse_stage(cls: type[Stage], argv: Sequence[str] | None = None, prog: str | None = None) -> Stage:
    """The settings of a stage. Raises UserError for a mistake, an unknown network among them."""
    words = normalize_dashes(argv)
    network = network_of(words)
    imagenet = network in IMAGENET_NETWORKS or _reads_224(network)
    usual = {"arch": network, "dataset": "imagenet" if imagenet else "digits"}
    usual |= {"dataset_dir": DATA_DIR} if imagenet else {}
    return parse(cls, words, prog, PACKAGE, {**usual, **cls.usual(network)})


def normalize_dashes(argv: Sequence[str] | None) -> list[str]:
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
            f"--arch wants the name of a network ({', '.join(KNOWN_NETWORKS)}), --model PACKAGE.MODULE:FACTORY"
        ) from None
    if given.model is None:
        return given.arch or default
    if given.arch is not None:
        raise UserError(f"give --arch {given.arch} or --model {given.model}, not both")
    if not is_own(given.model):
        raise UserError(f"--model {given.model}: expected PACKAGE.MODULE:FACTORY")
    return given.model


def is_own(network: str) -> bool:
    """Whether this is --model's PACKAGE.MODULE:FACTORY, not a registered name."""
    return ":" in network


def _reads_224(network: str) -> bool:
    """Whether a network that is not one of ours reads ImageNet's images. Raises UserError for an unknown one."""
    if is_own(network) or network in KNOWN_NETWORKS:
        return False
    from common.models import find_architecture  # an installed package may have registered it: this costs seconds

    return find_architecture(network).input_shape[1] == 224


def scale_limits(scales: Sequence[int] | None, default: tuple[int, int] = ALL_SCALES) -> tuple[int, int]:
    """The range of --scales. Raises UserError for one that is empty or outside 0..30."""
    low, high = default if scales is None else scales
    if not 0 <= low <= high <= FULL:
        raise UserError(f"--scales {low} {high}: two entries from 0 to {FULL}, the smaller one first")
    return low, high


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


def recorded(values: Any, *left_out: str, **changed: Any) -> dict[str, Any]:
    """The options for config.json.

    left_out: those that a run's result does not depend on. changed: values that were found out after parsing, and those that
    stood there when the command still had the option: run folders of that time stay readable.
    """
    return {name: value for name, value in flat(values).items() if name not in left_out} | changed


def _recipe_defaults(recipe: TrainOptions) -> dict[str, Any]:
    """Defaults of the training options; milestones follow the number of epochs, which may be given."""
    names = {field.name for field in fields(TrainingOptions)} - {"milestones"}
    return {field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name in names}


def _with_quarters(options: TrainOptions) -> TrainOptions:
    """A multi-step schedule without milestones drops at each quarter, as the paper's."""
    if options.schedule == "multi-step" and not options.milestones:
        return replace(options, milestones=quarters(options.epochs))
    return options
