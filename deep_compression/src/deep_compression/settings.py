"""Options of the package's commands, and the names that they may have: nothing here imports torch (:mod:`common.settings`)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from common.cli import positive_int
from common.errors import UserError
from common.options import (
    ARCHITECTURE_NAMES,
    DataOptions,
    NetworkOptions,
    PrecisionOptions,
    RepeatOptions,
    RunningOptions,
    RunOptions,
    TrainingOptions,
    train_options,
)
from common.settings import REQUIRED, option, section, settings
from deep_compression.choices import CODERS, INITS, METHODS, ORDERS, ROUNDINGS, RULES

if TYPE_CHECKING:
    from common.training.options import TrainOptions
    from deep_compression.plan import PrunePlan, Recipe, SharePlan

PACKAGE = "deep_compression"
SUFFIX = ".dcz"  # of a compressed network


# ---------------------------------------------------------------------------------------------------- types of options


class Named(argparse.Action):
    """NAME=VALUE[,VALUE...], collected into a dictionary of tuples of numbers."""

    def __call__(self, parser, namespace, text, option_string=None) -> None:
        name, _, values = text.partition("=")
        try:
            found = tuple(float(v) for v in values.split(","))
        except ValueError:
            parser.error(f"{option_string} {text}: expected NAME=NUMBER[,NUMBER...]")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: found})


def numbers(text: str) -> tuple[float, ...]:
    """An argparse type: numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers with commas between them") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    """An argparse type: integers of at least 1 with commas between them."""
    values = numbers(text)
    if any(v != int(v) or v < 1 for v in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers of at least 1")
    return tuple(int(v) for v in values)


def truth(text: str) -> bool:
    """An argparse type: what the original code means by type=bool, under which "False" was true."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


# ------------------------------------------------------------------------------------------------------------ sections


@settings
class Pruning:
    """Pruning."""

    rule: str = option("density", "what --values mean: see the README", choices=RULES)
    values: list[float] = option([0.3, 0.1], "one value per round of pruning")
    layer: dict[str, tuple[float, ...]] = option(
        {}, "values of one layer; may be repeated", action=Named, metavar="NAME=V[,V...]"
    )
    alive: bool = option(False, "rule std: the standard deviation of the remaining weights only")
    last_epochs: int | None = option(None, "epochs of the last round; as the others if not given")

    def plan(self) -> PrunePlan:
        """The plan that these options give. Raises UserError for values that are out of range."""
        from deep_compression.plan import PrunePlan

        return PrunePlan(self.rule, tuple(self.values), self.layer, self.alive, (), self.last_epochs)


@settings
class Sharing:
    """Sharing."""

    method: str = option("kmeans", "how remaining weights are clustered", choices=METHODS)
    init: str = option("linear", "where k-means starts", choices=INITS)
    lloyd_steps: int | None = option(None, "plain Lloyd steps of k-means; until nothing improves if not given")
    conv_bits: int = option(8, "bits per weight of convolutions")
    fc_bits: int = option(5, "bits per weight of linear layers")
    layer_bits: dict[str, tuple[float, ...]] = option(
        {}, "bits of one layer; may be repeated", action=Named, metavar="NAME=B"
    )
    clusters: int | None = option(None, "number of clusters in every layer, instead of bits", type=positive_int)
    bias_bits: int | None = option(None, "share biases too, with this number of bits")
    rounding: str = option(
        "none", "what centroids, normalization layers and other biases are rounded to", choices=ROUNDINGS
    )

    def plan(self) -> SharePlan:
        """The plan that these options give. Raises UserError for values that are out of range."""
        from deep_compression.plan import SharePlan

        return SharePlan(
            self.method,
            self.init,
            self.conv_bits,
            self.fc_bits,
            {name: int(values[0]) for name, values in self.layer_bits.items()},
            self.clusters,
            self.bias_bits,
            self.rounding,
            self.lloyd_steps,
        )


@settings
class Encoding:
    """Encoding."""

    index_bits: int | None = option(None, "bits of a position gap; what makes the file smallest if not given")
    order: str = option("auto", "order in which weights are visited", choices=("auto", *ORDERS))
    coder: str = option("huffman", "entropy coder", choices=("auto", *CODERS))

    def __post_init__(self) -> None:
        if self.index_bits is not None and not 1 <= self.index_bits <= 16:
            raise UserError(f"--index-bits {self.index_bits} is not in 1..16")


# ------------------------------------------------------------------------------------- python -m deep_compression STAGE


@settings
class StageOptions:
    """Options of every stage."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    out: str | None = option(None, "folder that gets a run folder for each stage; runs/DATASET/ARCH-SEED if not given")
    baseline: str | None = option(None, "dense network to compare with; the one that is compressed if not given")
    no_latency: bool = option(False, "do not measure latency")


@settings
class TrainingStage(StageOptions):
    """Options of every stage that trains."""

    precision: PrecisionOptions = section(PrecisionOptions)
    training: TrainingOptions = section(
        TrainingOptions, epochs=10, batch_size=128, learning_rate=0.01, weight_decay=5e-4
    )
    running: RunningOptions = section(RunningOptions)
    augment: bool = option(True, "crop and flip training images")
    tensorboard: str | None = option(None, "folder for TensorBoard")

    def options(self, **overrides: Any) -> TrainOptions:
        """How the weights are trained. Raises UserError for values that are out of range."""
        return train_options(self.training, self.running, self.precision, augment=self.augment, **overrides)


@settings
class Prune(TrainingStage):
    """Remove weights and train the others, in one round or several."""

    pruning: Pruning = section(Pruning)

    def __post_init__(self) -> None:
        self.pruning.plan()
        self.options()


@settings
class Share(TrainingStage):
    """Cluster the remaining weights of each layer and train the centroids."""

    training: TrainingOptions = section(TrainingOptions, epochs=3, batch_size=128, learning_rate=1e-4, weight_decay=0.0)
    sharing: Sharing = section(Sharing)

    def __post_init__(self) -> None:
        self.sharing.plan()
        self.options()


@settings
class Encode(StageOptions):
    """Write the compressed file and measure what is read back from it."""

    encoding: Encoding = section(Encoding)


@settings
class Compress(TrainingStage):
    """Prune, share and encode a trained network."""

    pruning: Pruning = section(Pruning)
    sharing: Sharing = section(Sharing)
    encoding: Encoding = section(Encoding)
    share_epochs: int = option(3, "epochs of training the centroids")
    share_learning_rate: float = option(1e-4, "learning rate of the centroids")

    def __post_init__(self) -> None:
        self.recipe()

    def recipe(self) -> Recipe:
        """All three stages. Raises UserError for values that are out of range."""
        from deep_compression.plan import Recipe

        centroids = self.options(
            epochs=self.share_epochs, learning_rate=self.share_learning_rate, weight_decay=0.0, warmup_epochs=0.0
        )
        return Recipe(self.pruning.plan(), self.options(), self.sharing.plan(), centroids, self.encoding)


OWN_MODEL = "PACKAGE.MODULE:FACTORY of a network that is not in the registry"


@settings
class Decode:
    """Turn a compressed file into a checkpoint."""

    file: str = option(REQUIRED, f"a compressed network (*{SUFFIX})", "file")
    model: str | None = option(None, OWN_MODEL)
    output: str | None = option(None, "checkpoint to write; FILE with .safetensors if not given")


@settings
class Evaluate:
    """Accuracy, cost, size and latency of a compressed file or checkpoint."""

    file: str = option(REQUIRED, f"a compressed network (*{SUFFIX}) or checkpoint", "file")
    baseline: str | None = option(None, "dense network to compare the predictions with")
    model: str | None = option(None, OWN_MODEL)
    json: str | None = option(None, "write the values to this file too")
    no_latency: bool = option(False, "do not measure latency")
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)


@settings
class Report:
    """The paper's per-layer table of a file."""

    file: str = option(REQUIRED, f"a compressed network (*{SUFFIX})", "file")
    json: str | None = option(None, "write the table to this file too")
    plots: str | None = option(None, "folder for plots: bits per layer, and a histogram per layer")


# -------------------------------------------------------------------------------------------------------------- main.py

LR1 = ",".join(["0.02", "0.02", "0.015"] + ["0.01"] * 14 + ["0.005"] * 3 + ["0.0025"] * 2 + ["0.001"] + ["0.0001"] * 2)
LR2 = "1e-5,1e-5,1e-4,1e-4,0.005,0.005,0.005,0.001,0.001,0.001,0.001"
BASE = "VGG19_base_10.t7"  # the file that the original code starts from


@settings
class Original:
    """Options of the original code."""

    lr1: tuple[float, ...] = option(numbers(LR1), "learning rate of each round of pruning", type=numbers, nargs=None)
    lr2: tuple[float, ...] = option(
        numbers(LR2), "learning rate of sharing, for each number of clusters", type=numbers, nargs=None
    )
    lrsch_1: tuple[int, ...] = option(
        (4, 11, 17, 22), "epochs after which lr1 is multiplied by --factor", "--lrsch_1", type=whole_numbers, nargs=None
    )
    lrsch_2: tuple[int, ...] = option(
        (8, 13, 18, 23), "epochs after which lr2 is multiplied by --factor", "--lrsch_2", type=whole_numbers, nargs=None
    )
    lcluster: tuple[int, ...] = option(
        (4, 5, 7, 9, 11, 13, 15, 18, 20, 25, 35),
        "clusters per layer, one network for each",
        type=whole_numbers,
        nargs=None,
    )
    cluster_method: str = option("GMM", "how weights are clustered", "--cluster_method", choices=METHODS)
    factor: float = option(0.2, "by which learning rates are multiplied")
    epoch: int = option(25, "epochs of each round of pruning and of each sharing")
    iter: int = option(25, "one more than the rounds of pruning, as in the original code")
    apply_pruning: bool = option(
        False, "prune again; False uses the pruned network that is there, if one is", "--apply_pruning", type=truth
    )
    apply_sharing: bool = option(True, "cluster and encode after pruning", "--apply_sharing", type=truth)
    gpus: int | None = option(None, "number of the CUDA device; --device says more")


@settings
class Pipeline:
    """Prune, share and encode a network (Deep Compression)."""

    original: Original = section(Original)
    arch: str = option("vgg19", f"one of {', '.join((*ARCHITECTURE_NAMES, 'vgg19'))}")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY, your own network")
    pretrained: str | None = option(
        None,
        f"trained weights or checkpoint; SAVED_DIR/{BASE} if that is there, else the base is trained",
        metavar="FILE",
    )
    saved_dir: str = option("checkpoint", "folder of the run folders and of the original code's flat files")
    batch_size: int = option(128, "images per step", type=positive_int)
    base_epochs: int = option(100, "epochs of the base network, where it has to be trained")
    base_learning_rate: float = option(0.05, "learning rate of the base network")
    quality: float = option(1.0, "threshold of pruning, in standard deviations of a layer's weights")
    alive: bool = option(False, "standard deviation of the remaining weights only")
    density: tuple[float, ...] | None = option(
        None,
        "fractions of each layer that remain, one per round, instead of --quality and --iter",
        type=numbers,
        nargs=None,
    )
    conv_bits: int | None = option(None, "bits per weight of convolutions, instead of --lcluster")
    fc_bits: int | None = option(None, "bits per weight of linear layers, instead of --lcluster")
    bias_bits: int | None = option(None, "share biases too, with this number of bits")
    init: str = option("linear", "where kmeans starts", choices=INITS)
    rounding: str = option(
        "none", "what centroids, normalization layers and other biases are rounded to", choices=ROUNDINGS
    )
    no_latency: bool = option(False, "do not measure latency")
    plots: bool = option(False, "draw the figures of the original code")
    tensorboard: str | None = option(None, "folder for TensorBoard")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    encoding: Encoding = section(Encoding)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)

    def __post_init__(self) -> None:
        """Raise UserError for options that contradict one another or are out of range."""
        original = self.original
        if original.iter < 2 and self.density is None:
            raise UserError(f"--iter {original.iter}: there are iter - 1 rounds of pruning, so at least 2 is needed")
        if len(original.lr1) < self.rounds + (self.density is None):
            raise UserError(
                f"--lr1 has {len(original.lr1)} values; one for each of {self.rounds} rounds is needed, and the original code never uses the first"
            )
        if len(original.lr2) < len(original.lcluster):
            raise UserError(f"--lr2 has {len(original.lr2)} values for {len(original.lcluster)} numbers of clusters")
        if (self.conv_bits is None) != (self.fc_bits is None):
            raise UserError("--conv-bits and --fc-bits are given together, or neither of them")
        if original.epoch < 0 or self.base_epochs < 0:
            raise UserError("--epoch and --base-epochs cannot be negative")
        self.prune_plan()
        self.prune_training()
        if original.apply_sharing:
            self.shared()

    @property
    def rounds(self) -> int:
        """Number of rounds of pruning."""
        return len(self.density) if self.density else self.original.iter - 1

    @property
    def _rates(self) -> tuple[float, ...]:
        """One learning rate per round; the original code counts its rounds from 1."""
        return (self.original.lr1 if self.density else self.original.lr1[1:])[: self.rounds]

    def prune_plan(self) -> PrunePlan:
        """All rounds of pruning."""
        from deep_compression.plan import PrunePlan

        rule = "density" if self.density else "std"
        return PrunePlan(rule, self.density or (self.quality,) * self.rounds, {}, self.alive, self._rates)

    def prune_training(self) -> TrainOptions:
        """How the remaining weights are trained after each round."""
        return self._training(self._rates[0], self.original.lrsch_1)

    def shared(self) -> list[tuple[str, SharePlan, TrainOptions]]:
        """Label, plan and training of each shared network."""
        from deep_compression.plan import SharePlan

        original = self.original
        wanted: list[tuple[str, dict[str, Any]]] = [(f"Shared{k:02d}", {"clusters": k}) for k in original.lcluster]
        if self.conv_bits is not None:
            sizes = {"conv_bits": self.conv_bits, "fc_bits": self.fc_bits}
            wanted = [(f"Shared{self.conv_bits}-{self.fc_bits}bits", sizes)]
        kind = "" if original.cluster_method == "GMM" else f"-{original.cluster_method}"
        return [
            (
                label + kind,
                SharePlan(
                    original.cluster_method, self.init, **sizes, bias_bits=self.bias_bits, rounding=self.rounding
                ),
                self._training(rate, original.lrsch_2),
            )
            for (label, sizes), rate in zip(wanted, original.lr2, strict=False)
        ]

    def _training(self, rate: float, milestones: tuple[int, ...]) -> TrainOptions:
        return train_options(
            self.precision,
            epochs=self.original.epoch,
            batch_size=self.batch_size,
            learning_rate=rate,
            momentum=0.9,
            weight_decay=0.0,
            schedule="multi-step",
            milestones=milestones,
            gamma=self.original.factor,
        )
