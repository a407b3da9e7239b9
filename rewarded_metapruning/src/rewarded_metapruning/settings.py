"""Options of all commands: the original code's options with their names and defaults, and additional ones. Imports no torch."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from common import cli, options
from common.cli import (
    BETWEEN,
    IMAGE_SIDE,
    IMAGES,
    TARGET_LATENCY,
    TARGET_MACS,
    WORKERS,
    Range,
    fraction,
    positive_int,
    shorten,
)
from common.errors import UserError
from common.options import HardwareOptions, RepeatOptions, RuntimeOptions, train_options
from common.settings import flatten, option, parse, section, settings
from common.training.train_options import RANGES, TrainOptions
from rewarded_metapruning.recipes import GENERATION, SMALL, EvolutionSettings, find_recipe, quarter_milestones
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.tradeoff import REWARD_RANGES
from rewarded_metapruning.vector_text import check_vector

PACKAGE = "rewarded_metapruning"
DATA_DIR = "./ImageNet2012"  # the ImageNet folder in the original code's README
PRUNING_NET = "./training/models"
SEARCH = "./searching"
FINAL = "./evaluating/models"
CHECKPOINT = "checkpoint.pth.tar"  # file name of the original code; tensors only
BEST = ("model_best.pth.tar", "model_best.pth")  # in the original code and in its README
SEARCH_FILE = "search.json"
HOLDOUT_SEED = 0  # the held-out images are the same for every --seed and every stage
PAPER, CONV_LINEAR = "rewarded_metapruning", "conv_linear"  # rules of common.cost
LATENCY = "latency"  # in place of a rule, where a candidate's predicted time is limited
MILLION = 1e6
UNPRUNED, RANDOM, CHOSEN = "unpruned", "random", "chosen"  # roles of the networks of stage 3
INITS = ("scratch", "generated")
SELECTIONS = ("holdout", "test")
NO_INPUT_SHAPE = "--model: the input shape is unknown; give it with --input-shape, e.g. --input-shape 3 224 224"

IMAGENET_NETWORKS = ("resnet50", "mobilenetv1", "mobilenetv2")  # networks of the paper
DESCRIBED = (*IMAGENET_NETWORKS, "resnet-small", "mobilenetv1-small", "mobilenetv2-small")  # in genes.py
# Networks with a description, then CIFAR networks whose genes are their channel groups.
KNOWN_NETWORKS = (
    *DESCRIBED,
    *(
        name
        for name in options.ARCHITECTURE_NAMES
        if (name.startswith("resnet") or name == "vgg16") and name not in DESCRIBED
    ),
)
VECTOR = f"encoding vector: 14,14,... or [14, 14, ...] with entries from 0 to {FULL}, published or unpruned"

SCALE = Range(int, 0, FULL)
RANDOM_COUNT = Range(int, 1, 1000)  # vectors of --also-train
MILLIONS = Range(float, 0, 100_000)  # of MACs; a number of MACs is larger


@settings
class SearchedNetworkOptions:
    """Network."""

    arch: str = option("resnet50", f"one of {', '.join(KNOWN_NETWORKS)}")
    model: str | None = options.model_option("; one gene per channel group")

    @property
    def name(self) -> str:
        """The argument of --model for a custom network, or the name of a registered one."""
        return self.model or self.arch


@settings
class StageDataOptions(options.DataOptions):
    """Data."""

    dataset_dir: str | None = option(None, options.DATASET_DIR_HELP, "--dataset-dir", "--data")
    workers: int = option(
        2, "processes that load images not held in memory", "--workers", "-j", type=WORKERS, free=True
    )
    train_images: int | None = option(
        None, "number of training images, stratified by class; all if not given", type=IMAGES
    )


@settings
class AmpOptions:
    """Numeric precision."""

    amp: bool = option(False, "automatic mixed precision (bfloat16)")


@settings
class StageTrainingOptions(options.TrainingOptions):
    """Training."""

    label_smoothing: float = option(
        0.0, "label smoothing", "--label-smoothing", "--label-smooth", type=RANGES["label_smoothing"]
    )


def holdout_option() -> Any:
    return option(0.1, "fraction of the training images held out for evaluating candidates", type=BETWEEN)


def scale_range_option(default: str) -> Any:
    return option(
        None,
        f"smallest and largest entry of sampled vectors (default: {default})",
        nargs=2,
        type=SCALE,
        metavar=("LOW", "HIGH"),
    )


def tensorboard_option() -> Any:
    return option(None, "folder for TensorBoard", free=True)


def net_cache_option(help: str) -> Any:
    return option(f"{PRUNING_NET}/{CHECKPOINT}", help, free=True)


@settings
class TrainingCommand:
    """Options of a stage that trains."""

    network: SearchedNetworkOptions = section(SearchedNetworkOptions)
    data: StageDataOptions = section(StageDataOptions)
    scale_range: list[int] | None = scale_range_option("all")
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: AmpOptions = section(AmpOptions)
    training: StageTrainingOptions = section(StageTrainingOptions)
    running: RuntimeOptions = section(RuntimeOptions)
    tensorboard: str | None = tensorboard_option()

    def __post_init__(self) -> None:
        resolve_scale_range(self.scale_range)
        _ = self.recipe

    @property
    def recipe(self) -> TrainOptions:
        """Training recipe of the PruningNet, or of each network. Raises UserError if an option is out of range."""
        return _with_quarter_milestones(train_options(self.training, self.running, self.precision))


@settings
class TrainPruningNet(TrainingCommand):
    """Train a PruningNet (stage 1) as in the paper; extended variant: --scale-range 14 26 --optimizer adam --learning-rate 0.003."""

    holdout: float = holdout_option()
    save: str = option(PRUNING_NET, "run folder of the PruningNet", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.training.epochs:
            raise UserError("--epochs 0: the PruningNet is not trained; give at least 1 epoch")

    @staticmethod
    def default_values(network: str) -> dict[str, Any]:
        """Return the defaults that depend on the network."""
        return _recipe_defaults(find_recipe(network).meta)

    @property
    def differences(self) -> list[str]:
        """How the stage differs from the paper's; epochs and batch sizes are settings."""
        narrow = resolve_scale_range(self.scale_range) != ALL_SCALES
        optimizer = self.training.optimizer
        return ["a narrow range of widths"] * narrow + [f"optimizer {optimizer}"] * (optimizer != "sgd")


@settings
class SearchOptions:
    """Search."""

    net_cache: str = net_cache_option("file of the PruningNet: checkpoint.pth.tar or model.safetensors")
    max_iters: int = option(20, "number of generations", type=positive_int, free=True)
    out: str = option(SEARCH, f"folder of {SEARCH_FILE}", free=True)
    population: int = option(EvolutionSettings.population, "candidates per generation", type=GENERATION)
    parents: int = option(
        EvolutionSettings.parents, "number of best candidates used for mutation and crossover", type=GENERATION
    )
    mutants: int | None = option(
        None, "mutants per generation; half of the population if not given", type=replace(GENERATION, low=0)
    )
    crossovers: int | None = option(
        None, "crossovers per generation; half of the population if not given", type=replace(GENERATION, low=0)
    )
    mutation: float = option(EvolutionSettings.mutation, "probability that a gene of a mutant changes", type=fraction)
    macs_min: float | None = option(None, "minimum MACs of a candidate, in millions by the paper's rule", type=MILLIONS)
    macs_max: float | None = option(None, "maximum MACs of a candidate, in millions by the paper's rule", type=MILLIONS)
    target_macs: float | None = option(
        None,
        "fraction F of the unpruned MACs (convolutions and linear layers) to keep; candidates have 0.98 F to F",
        type=TARGET_MACS,
        metavar="F",
    )
    target_latency: float | None = option(
        None,
        f"{options.TARGET_LATENCY_HELP}; candidates have at most this predicted time, and the best one is measured",
        type=TARGET_LATENCY,
        metavar="F",
    )
    latency_batch_size: int | None = option(None, options.LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str | None = option(None, options.LATENCY_RUNTIME_HELP, choices=options.LATENCY_RUNTIMES)
    base_acc: float = option(
        SMALL.base_accuracy, "base accuracy of the reward, in percent", type=REWARD_RANGES["base_accuracy"]
    )
    base_macs: float | None = option(
        SMALL.base_macs,
        "base MACs of the reward, in millions; those of the unpruned network if not given",
        type=REWARD_RANGES["base_macs"],
    )
    acc_power: float = option(
        2.0, "exponent of the reward's accuracy coefficient", type=REWARD_RANGES["accuracy_power"]
    )
    macs_power: float = option(1.0, "exponent of the reward's efficiency coefficient", type=REWARD_RANGES["macs_power"])
    select_on: str = option(
        "holdout",
        "images on which candidates are evaluated: held-out training images, or the test set as in the original code",
        choices=SELECTIONS,
    )
    calibration_batches: int = option(
        SMALL.calibration[0], "number of batch-norm calibration batches", type=positive_int
    )
    batch_size: int = option(SMALL.calibration[1], "images per calibration batch", type=positive_int)
    plots: bool = option(False, "plot rewards by generation and accuracy against MACs", free=True)

    def __post_init__(self) -> None:
        _ = self.evolution
        limited = self.macs_min is not None or self.macs_max is not None
        if self.target_latency is not None and (self.target_macs is not None or limited):
            other = "--target-macs" if self.target_macs is not None else "--macs-min/--macs-max"
            raise UserError(f"--target-latency and {other} exclude each other; give one, not both")
        if self.target_macs is not None and limited:
            raise UserError("--target-macs and --macs-min/--macs-max exclude each other; give one, not both")
        if self.macs_min is not None and self.macs_max is not None and self.macs_min > self.macs_max:
            raise UserError(
                f"--macs-min {self.macs_min:g}: the minimum is above the maximum, --macs-max {self.macs_max:g}"
            )

    @property
    def evolution(self) -> EvolutionSettings:
        """Settings of the evolution. Raises UserError if they contradict one another."""
        half = self.population // 2
        mutants = half if self.mutants is None else self.mutants
        crossovers = half if self.crossovers is None else self.crossovers
        return EvolutionSettings(
            self.population, self.parents, mutants, crossovers if self.parents > 1 else 0, self.mutation
        )


@settings
class SearchWidths:
    """Search encoding vectors by reward (stage 2) as in the paper; extended variant: --population 10 --parents 4 --max-iters 2."""

    network: SearchedNetworkOptions = section(SearchedNetworkOptions)
    data: StageDataOptions = section(StageDataOptions)
    holdout: float = holdout_option()
    scale_range: list[int] | None = scale_range_option("the range on which the PruningNet was trained")
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: AmpOptions = section(AmpOptions)
    search: SearchOptions = section(SearchOptions)

    def __post_init__(self) -> None:
        resolve_scale_range(self.scale_range)

    @staticmethod
    def default_values(network: str) -> dict[str, Any]:
        """Return the defaults that depend on the network."""
        recipe = find_recipe(network)
        batches, size = recipe.calibration
        return {
            "base_acc": recipe.base_accuracy,
            "base_macs": recipe.base_macs,
            "calibration_batches": batches,
            "batch_size": size,
        }

    @property
    def differences(self) -> list[str]:
        """How the stage differs from the paper's; the number of generations and the limits of MACs or latency are settings."""
        search, usual = self.search, SearchOptions()
        found = {
            "a narrow range of widths": resolve_scale_range(self.scale_range) != ALL_SCALES,
            "sizes of a generation": search.evolution != usual.evolution,
            "exponents of the reward": (search.acc_power, search.macs_power) != (usual.acc_power, usual.macs_power),
        }
        return [text for text, differs in found.items() if differs]


@settings
class VectorOptions:
    """Encoding vector."""

    nev: str | None = option(None, VECTOR, free=True)
    nev_file: str | None = option(
        None,
        f"{SEARCH_FILE} to take the vector from; {SEARCH}/{SEARCH_FILE} if neither --nev nor this is given",
        free=True,
    )
    rank: int = option(1, "rank of the candidate in the search file, 1 is the best", type=positive_int, free=True)
    unfinished: bool = option(False, "accept the file of a search that is not finished: its best so far", free=True)
    rotated: bool = option(
        False, "shift the vector by one layer, as the original code does when it builds MobileNetV1", free=True
    )
    init: str = option("scratch", "initial weights: newly initialized, or generated by the PruningNet", choices=INITS)
    net_cache: str = net_cache_option("file of the PruningNet for --init generated")
    also_train: list[str] = option(
        [],
        "additional networks to train: unpruned, random, random:3 (random vectors with the same MACs)",
        metavar="NETWORK",
        free=True,
    )

    def __post_init__(self) -> None:
        parse_also_train(self.also_train)
        if self.nev is not None and (self.nev_file is not None or self.rank != 1):
            raise UserError("--nev and --nev-file or --rank exclude each other; give the vector or the search file")
        _check_nev(self.nev)

    @property
    def origin(self) -> str:
        """Option, or file and rank, that gives the vector."""
        return f"{self.file}, rank {self.rank}" if self.nev is None else "--nev"

    @property
    def file(self) -> str:
        """Search file from which the vector is read if --nev is not given."""
        return self.nev_file or f"{SEARCH}/{SEARCH_FILE}"


@settings
class TrainChosen(TrainingCommand):
    """Train the network of a chosen encoding vector from scratch (stage 3) as in the paper; extended variant: --init generated --epochs 0."""

    scale_range: list[int] | None = scale_range_option("the range of the search file; all with --nev")
    precision: options.PrecisionOptions = section(options.PrecisionOptions)  # type: ignore[assignment]  # with --compile
    vector: VectorOptions = section(VectorOptions)
    save: str = option(FINAL, "folder of the run folders", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.training.epochs and self.vector.init == "scratch":
            raise UserError("--epochs 0: new weights are not trained; give at least 1 epoch, or --init generated")

    @staticmethod
    def default_values(network: str) -> dict[str, Any]:
        """Return the defaults that depend on the network."""
        return _recipe_defaults(find_recipe(network).final)

    @property
    def differences(self) -> list[str]:
        """How the stage differs from the paper's; the number of epochs is a setting."""
        return [f"{self.vector.init} weights"] * (self.vector.init != "scratch")


@settings
class CountCost:
    """Print widths, MACs and parameters of an encoding vector."""

    network: SearchedNetworkOptions = section(SearchedNetworkOptions)
    input_shape: list[int] | None = option(
        None,
        "shape of one image; the input shape of a registered network if not given",
        nargs=3,
        type=IMAGE_SIDE,
        metavar=("C", "H", "W"),
    )
    nev: str = option(UNPRUNED, VECTOR)
    rotated: bool = option(False, "shift the vector by one layer, as the original code does when it builds MobileNetV1")
    num_classes: int | None = option(
        None, "number of classes; if not given, 1000 for ImageNet networks, else 10", type=Range(int, 1, 1_000_000)
    )
    json: str | None = option(None, "JSON file to write the values to")

    def __post_init__(self) -> None:
        if self.network.model is not None and self.input_shape is None:
            raise UserError(NO_INPUT_SHAPE)
        _check_nev(self.nev)


def _check_nev(text: str | None) -> None:
    try:
        check_vector(UNPRUNED if text is None else text)
    except UserError as error:
        raise UserError(f"--nev: {error}") from error


Stage = TypeVar("Stage", TrainPruningNet, SearchWidths, TrainChosen)


def stage_command(
    cls: type[Stage], body: Callable[[Stage], None], argv: Sequence[str] | None, prog: str | None = None
) -> int:
    """Run a stage, whose defaults depend on the network, and return an exit status (:func:`common.settings.command`).

    First, print whether it is the paper's, or how it differs.
    """

    def run(words: Sequence[str] | None) -> None:
        stage = parse_stage(cls, words, prog)
        differing = ", ".join(stage.differences)
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first
            print(f"extended, differs from the paper: {differing}" if differing else "the paper's method")
        body(stage)

    return cli.run(run, argv)


def parse_stage(cls: type[Stage], argv: Sequence[str] | None = None, prog: str | None = None) -> Stage:
    """Parse the settings of a stage. Raise UserError for invalid arguments, e.g. an unknown network."""
    argv = normalize_dashes(argv)
    network = parse_network(argv)
    imagenet = network in IMAGENET_NETWORKS or _reads_224(network)
    defaults = {"arch": network, "dataset": "imagenet" if imagenet else "digits"}
    defaults |= {"dataset_dir": DATA_DIR} if imagenet else {}
    return parse(cls, argv, prog, PACKAGE, {**defaults, **cls.default_values(network)})


def normalize_dashes(argv: Sequence[str] | None) -> list[str]:
    """Replace underscores in option names: the original code has --max_iters for --max-iters."""
    normalized = []
    for argument in list(sys.argv[1:] if argv is None else argv):
        name, equals, value = argument.partition("=")
        normalized.append(f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument)
    return normalized


def parse_network(argv: Sequence[str], default: str = "resnet50") -> str:
    """Parse --model or --arch, which other defaults depend on. Raise UserError if both are given or one is invalid."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--arch", default=None)
    parser.add_argument("--model", default=None)
    try:
        given = parser.parse_known_args(list(argv))[0]
    except SystemExit:
        raise UserError(
            f"--arch requires the name of a network ({', '.join(KNOWN_NETWORKS)}), --model requires {options.FACTORY}"
        ) from None
    if given.model is None:
        return given.arch or default
    if given.arch is not None:
        raise UserError(f"--arch {given.arch} and --model {given.model} exclude each other; give one, not both")
    if not is_custom(given.model):
        raise UserError(f"--model {given.model}: expected {options.FACTORY}")
    return given.model


def is_custom(network: str) -> bool:
    """Return whether this is an argument of --model, not a registered name."""
    return ":" in network


def _reads_224(network: str) -> bool:
    """Return whether another registered network reads ImageNet's images. Raise UserError if it is unknown."""
    if is_custom(network) or network in KNOWN_NETWORKS:
        return False
    from common.models import find_architecture  # slow import: only for networks that other packages register

    return find_architecture(network).input_shape[1] == 224


def resolve_scale_range(scale_range: Sequence[int] | None, default: tuple[int, int] = ALL_SCALES) -> tuple[int, int]:
    """Return the range of --scale-range, or the default. Raise UserError if it is empty or outside 0 to 30."""
    low, high = default if scale_range is None else scale_range
    if not 0 <= low <= high <= FULL:
        raise UserError(f"--scale-range {low} {high}: give two entries from 0 to {FULL}, the smaller one first")
    return low, high


def parse_also_train(values: Sequence[str]) -> tuple[bool, int]:
    """Return (whether to train the unpruned network, number of random vectors) of ``--also-train``."""
    unpruned, count = False, 0
    for value in values:
        name, _, number = value.partition(":")
        if name == UNPRUNED and not number:
            unpruned = True
        elif name == RANDOM:
            try:
                count += RANDOM_COUNT(number or "1")
            except argparse.ArgumentTypeError as error:
                raise UserError(f"--also-train {shorten(value)}: {error}") from error
        else:
            raise UserError(f"--also-train {shorten(value)}: expected unpruned, random or random:COUNT")
    return unpruned, count


def recorded_options(values: Any, *left_out: str, **changed: Any) -> dict[str, Any]:
    """Return the options for config.json.

    Args:
        left_out: Options that the result does not depend on.
        changed: Values that are resolved after parsing, and constants of options that were removed, with which existing run
            folders stay readable.
    """
    return {name: value for name, value in flatten(values).items() if name not in left_out} | changed


def _recipe_defaults(recipe: TrainOptions) -> dict[str, Any]:
    """Return the defaults of the training options, without milestones, which depend on the number of epochs."""
    names = {field.name for field in fields(StageTrainingOptions)} - {"milestones"}
    return {field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name in names}


def _with_quarter_milestones(options: TrainOptions) -> TrainOptions:
    """Set the milestones of a multi-step schedule to the quarters of the training, as in the paper, if there are none."""
    if options.schedule == "multi-step" and not options.milestones:
        return replace(options, milestones=quarter_milestones(options.epochs))
    return options
