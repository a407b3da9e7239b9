"""Options of the package's commands (:mod:`common.settings`). This module does not import torch."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common.cli import DEVICE_NUMBER, EPOCHS, LEARNING_RATE, Range, fraction, nonnegative_int, positive_int
from common.errors import UserError
from common.options import (
    ARCHITECTURE_NAMES,
    DataOptions,
    HardwareOptions,
    NetworkOptions,
    PrecisionOptions,
    RepeatOptions,
    RuntimeOptions,
    TrainingOptions,
    model_option,
    train_options,
)
from common.settings import REQUIRED, option, section, settings
from common.training.train_options import RANGES, check_milestones
from deep_compression.choices import (
    ADAPTIVE,
    CENTROID_INITS,
    CLUSTERING_METHODS,
    CODERS,
    ORDERS,
    PRUNING_RULES,
    ROUNDINGS,
)

if TYPE_CHECKING:
    from common.training.train_options import TrainOptions
    from deep_compression.compression_recipe import CompressionRecipe, PruningPlan, QuantizationPlan

PACKAGE = "deep_compression"
SUFFIX = ".dcz"  # of compressed files


# ------------------------------------------------------------------------------------------------------- option types


class NamedValues(argparse.Action):
    """Argparse action that collects NAME=VALUE[,VALUE...] in a dictionary of tuples of numbers."""

    def __call__(self, parser, namespace, values, *_) -> None:
        name, numbers = values
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: numbers})


class IndexBits(Range):
    """Number of bits, or auto, which is 0 (an argparse type)."""

    def __call__(self, text: str) -> int:
        return 0 if text == self.word else super().__call__(text)


RULE_VALUE = Range(float, 0, 100)  # percentages are the largest
BITS = Range(int, 1, 12)
CLUSTERS = Range(int, 1, 4096)


def parse_bool(text: str) -> bool:
    """Parse True or False (an argparse type). The original code used type=bool, for which "False" is true."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


# ------------------------------------------------------------------------------------------------------------ sections


@settings
class WeightPruningOptions:
    """Pruning options."""

    rule: str = option(
        "density", "pruning rule, which defines the meaning of --values (see README)", choices=PRUNING_RULES
    )
    values: list[float] = option([0.3, 0.1], "values of the pruning rule, one per round", type=RULE_VALUE)
    layer: dict[str, tuple[float, ...]] = option(
        {},
        "values of layer NAME; may be repeated",
        action=NamedValues,
        metavar="NAME=V[,V...]",
        type=replace(RULE_VALUE, named=True),
    )
    std_of_nonzero: bool = option(False, "rule std: standard deviation of the remaining weights only")
    last_epochs: int | None = option(None, "number of epochs of the last round (default: --epochs)", type=EPOCHS)

    def plan(self) -> PruningPlan:
        """Return the pruning plan. Raises UserError for values that are out of range."""
        from deep_compression.compression_recipe import PruningPlan

        return PruningPlan(self.rule, tuple(self.values), self.layer, self.std_of_nonzero, (), self.last_epochs)


@settings
class QuantizationOptions:
    """Quantization options."""

    method: str = option(
        "kmeans",
        "method that clusters the remaining weights; GMM: Gaussian mixture; GMM-kmeans: k-means that starts from a mixture",
        choices=CLUSTERING_METHODS,
    )
    centroid_init: str = option(
        "linear",
        "initial centroids of k-means: linear: equally spaced; density: quantiles; forgy: random weights; companded: denser near zero",
        choices=CENTROID_INITS,
    )
    lloyd_steps: int | None = option(
        None,
        "number of Lloyd iterations of k-means; 0 (not in the paper): initial clusters (default: until convergence)",
        type=nonnegative_int,
    )
    conv_bits: int = option(8, "bits per convolution weight", type=BITS)
    fc_bits: int = option(5, "bits per weight of linear layers", type=BITS)
    layer_bits: dict[str, tuple[float, ...]] = option(
        {},
        "bits per weight of layer NAME; may be repeated",
        action=NamedValues,
        metavar="NAME=B",
        type=replace(BITS, named=True),
    )
    clusters: int | None = option(None, "number of clusters per layer (overrides the bits per weight)", type=CLUSTERS)
    bias_bits: int | None = option(
        None, "quantize biases to 2^B shared values (default: biases are not quantized)", type=BITS
    )
    rounding: str = option("none", "format to which centroids and unquantized tensors are rounded", choices=ROUNDINGS)

    def plan(self) -> QuantizationPlan:
        """Return the quantization plan. Raises UserError for values that are out of range."""
        from deep_compression.compression_recipe import QuantizationPlan

        return QuantizationPlan(
            self.method,
            self.centroid_init,
            self.conv_bits,
            self.fc_bits,
            {name: int(values[0]) for name, values in self.layer_bits.items()},
            self.clusters,
            self.bias_bits,
            self.rounding,
            self.lloyd_steps,
        )


@settings
class EncodingOptions:
    """Encoding options."""

    index_bits: tuple[int, ...] = option(
        (5,),
        "bits of a position gap: one number, or one for convolutions and one for linear layers;"
        " auto (not in the paper): the smallest file",
        type=IndexBits(int, 1, 16, word="auto"),
        metavar="B",
    )
    order: str = option("rows", "order of positions; auto: the smallest file", choices=("auto", *ORDERS))
    coder: str = option("huffman", "entropy coder", choices=("auto", *CODERS, ADAPTIVE))

    def __post_init__(self) -> None:
        given = " ".join(str(bits or "auto") for bits in self.index_bits)
        if not 1 <= len(self.index_bits) <= 2:
            raise UserError(f"--index-bits {given}: {len(self.index_bits)} numbers; give one or two")
        if not all(0 <= bits <= 16 for bits in self.index_bits):
            raise UserError(f"--index-bits {given}: must be in 1..16, or auto")

    def index_bits_by_type(self) -> dict[str, int | None]:
        """Return the bits of a position gap by layer type, "conv" and "fc"; None: the smallest file."""
        return {"conv": self.index_bits[0] or None, "fc": self.index_bits[-1] or None}

    @property
    def differences(self) -> list[str]:
        """How the encoding differs from the paper's; numbers of bits are settings."""
        found = {
            "index bits chosen for the size": 0 in self.index_bits,
            f"positions in order {self.order}": self.order == "auto",
            f"coder {self.coder}": self.coder != "huffman",
        }
        return [text for text, differs in found.items() if differs]


SMALLEST_FILE = EncodingOptions(index_bits=(0,), order="auto")  # not in the paper
SMALLEST_FILE_ADAPTIVE = EncodingOptions(index_bits=(0,), order="auto", coder=ADAPTIVE)


# ------------------------------------------------------------------------------------- python -m deep_compression STAGE


@settings
class StageOptions:
    """Options of every stage."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    out: str | None = option(
        None, "parent folder; each stage writes a folder of its own in it (default: runs/DATASET/ARCH-SEED)"
    )
    baseline: str | None = option(None, "checkpoint of the dense network to compare with (default: the input network)")
    no_latency: bool = option(False, "do not measure latency")


@settings
class TrainingStageOptions(StageOptions):
    """Options of every stage with training."""

    precision: PrecisionOptions = section(PrecisionOptions)
    training: TrainingOptions = section(
        TrainingOptions, epochs=10, batch_size=128, learning_rate=0.01, weight_decay=5e-4
    )
    running: RuntimeOptions = section(RuntimeOptions)
    augment: bool = option(True, "crop and flip training images")
    tensorboard: str | None = option(None, "folder for TensorBoard logs")

    def options(self, **overrides: Any) -> TrainOptions:
        """Return the training options. Raises UserError for values that are out of range."""
        return train_options(self.training, self.running, self.precision, augment=self.augment, **overrides)


@settings
class PruneStage(TrainingStageOptions):
    """Prune weights of a trained network and retrain the remaining ones, in one or several rounds."""

    pruning: WeightPruningOptions = section(WeightPruningOptions)

    def __post_init__(self) -> None:
        self.pruning.plan()
        self.options()


@settings
class QuantizeStage(TrainingStageOptions):
    """Quantize the remaining weights of a pruned network (--checkpoint) to a few centroids per layer, and train the centroids."""

    training: TrainingOptions = section(TrainingOptions, epochs=3, batch_size=128, learning_rate=1e-4, weight_decay=0.0)
    quantization: QuantizationOptions = section(QuantizationOptions)

    def __post_init__(self) -> None:
        self.quantization.plan()
        self.options()


@settings
class EncodeStage(StageOptions):
    """Encode a quantized network (--checkpoint) into a compressed file, and evaluate the network reloaded from it."""

    encoding: EncodingOptions = section(EncodingOptions)


@settings
class CompressStages(TrainingStageOptions):
    """Prune, quantize and encode a trained network."""

    pruning: WeightPruningOptions = section(WeightPruningOptions)
    quantization: QuantizationOptions = section(QuantizationOptions)
    encoding: EncodingOptions = section(EncodingOptions)
    quantize_epochs: int = option(3, "number of epochs of centroid training", type=EPOCHS)
    quantize_learning_rate: float = option(1e-4, "learning rate of the centroids", type=LEARNING_RATE)

    def __post_init__(self) -> None:
        self.recipe()

    def recipe(self) -> CompressionRecipe:
        """Return the recipe of all three stages. Raises UserError for values that are out of range."""
        from deep_compression.compression_recipe import CompressionRecipe

        centroids = self.options(
            epochs=self.quantize_epochs, learning_rate=self.quantize_learning_rate, weight_decay=0.0, warmup_epochs=0.0
        )
        return CompressionRecipe(
            self.pruning.plan(), self.options(), self.quantization.plan(), centroids, self.encoding
        )


@settings
class Decode:
    """Decode a compressed file into a checkpoint."""

    file: str = option(REQUIRED, f"compressed network (*{SUFFIX})", "file")
    model: str | None = model_option("; for a file that records no registered architecture")
    output: str | None = option(None, "checkpoint to write (default: FILE with the suffix .safetensors)")


@settings
class EvaluateFile:
    """Evaluate a compressed file or a checkpoint: accuracy, cost, size and latency."""

    file: str = option(REQUIRED, f"compressed network (*{SUFFIX}) or checkpoint", "file")
    baseline: str | None = option(None, "dense network whose predictions are compared")
    model: str | None = model_option("; for a file that records no registered architecture")
    json: str | None = option(None, "JSON file for the metrics")
    no_latency: bool = option(False, "do not measure latency")
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)


@settings
class ReportFile:
    """Report the size of a compressed file per layer (as in the paper's tables) and per kind of content (weights, positions, codebooks, headers)."""

    file: str = option(REQUIRED, f"compressed network (*{SUFFIX})", "file")
    json: str | None = option(None, "JSON file for the tables")
    plots: str | None = option(None, "folder for plots: bits per layer, bytes of the file, a histogram per layer")


# -------------------------------------------------------------------------------------------------------------- main.py

RATES = replace(LEARNING_RATE, listed=True)
LR1 = ",".join(["0.02", "0.02", "0.015"] + ["0.01"] * 14 + ["0.005"] * 3 + ["0.0025"] * 2 + ["0.001"] + ["0.0001"] * 2)
LR2 = "1e-5,1e-5,1e-4,1e-4,0.005,0.005,0.005,0.001,0.001,0.001,0.001"
BASE = "VGG19_base_10.t7"  # file of the base network in the original code


@settings
class OriginalOptions:
    """Options of the original code."""

    lr1: tuple[float, ...] = option(RATES(LR1), "learning rates of the rounds of pruning", type=RATES, nargs=None)
    lr2: tuple[float, ...] = option(
        RATES(LR2),
        "learning rates of centroid training, one per value of --lcluster",
        type=RATES,
        nargs=None,
    )
    lrsch_1: tuple[int, ...] = option(
        (4, 11, 17, 22),
        "epochs after which --lr1 is multiplied by --factor",
        "--lrsch_1",
        type=replace(positive_int, listed=True),
        nargs=None,
    )
    lrsch_2: tuple[int, ...] = option(
        (8, 13, 18, 23),
        "epochs after which --lr2 is multiplied by --factor",
        "--lrsch_2",
        type=replace(positive_int, listed=True),
        nargs=None,
    )
    lcluster: tuple[int, ...] = option(
        (4, 5, 7, 9, 11, 13, 15, 18, 20, 25, 35),
        "numbers of clusters per layer, one network for each",
        type=replace(CLUSTERS, listed=True),
        nargs=None,
    )
    cluster_method: str = option(
        "GMM", "clustering method of the weights", "--cluster_method", choices=CLUSTERING_METHODS
    )
    factor: float = option(0.2, "factor of the learning rate at --lrsch_1 and --lrsch_2", type=RANGES["gamma"])
    epoch: int = option(25, "number of epochs of each round of pruning and of each centroid training", type=EPOCHS)
    iter: int = option(25, "number of rounds of pruning plus one, as in the original code", type=Range(int, 1, 10_000))
    apply_pruning: bool = option(
        False, "prune again; False reuses an existing pruned network", "--apply_pruning", type=parse_bool
    )
    apply_sharing: bool = option(True, "quantize and encode after pruning", "--apply_sharing", type=parse_bool)
    gpus: int | None = option(None, "number of the CUDA device (see also --device)", type=DEVICE_NUMBER)


@settings
class OriginalPipeline:
    """Prune, quantize and encode a network (Deep Compression)."""

    original: OriginalOptions = section(OriginalOptions)
    arch: str = option("vgg19", f"architecture: {', '.join((*ARCHITECTURE_NAMES, 'vgg19'))}")
    model: str | None = model_option()
    pretrained: str | None = option(
        None,
        f"trained weights or checkpoint (default: SAVED_DIR/{BASE} if it exists, else the base network is trained)",
        metavar="FILE",
    )
    saved_dir: str = option("checkpoint", "folder of the run folders and of the files in the original format")
    batch_size: int = option(128, "images per step", type=positive_int)
    base_epochs: int = option(100, "number of epochs of the base network, if it is trained", type=EPOCHS)
    base_learning_rate: float = option(0.05, "learning rate of the base network", type=LEARNING_RATE)
    quality: float = option(1.0, "pruning threshold, in standard deviations of a layer's weights", type=RULE_VALUE)
    std_of_nonzero: bool = option(False, "standard deviation of the remaining weights only")
    density: tuple[float, ...] | None = option(
        None,
        "fractions of each layer to keep, one per round (override --quality and --iter)",
        type=replace(fraction, listed=True),
        nargs=None,
    )
    conv_bits: int | None = option(None, "bits per weight of convolutions (overrides --lcluster)", type=BITS)
    fc_bits: int | None = option(None, "bits per weight of linear layers (overrides --lcluster)", type=BITS)
    bias_bits: int | None = option(
        None, "quantize biases to 2^B shared values (default: biases are not quantized)", type=BITS
    )
    centroid_init: str = option("linear", "initialization of the centroids of kmeans", choices=CENTROID_INITS)
    rounding: str = option("none", "format to which centroids and unquantized tensors are rounded", choices=ROUNDINGS)
    no_latency: bool = option(False, "do not measure latency")
    plots: bool = option(False, "draw the plots of the original code")
    tensorboard: str | None = option(None, "folder for TensorBoard logs")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    encoding: EncodingOptions = section(EncodingOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)

    def __post_init__(self) -> None:
        """Raise UserError for options that are inconsistent or out of range."""
        original = self.original
        if original.iter < 2 and self.density is None:
            raise UserError(f"--iter {original.iter}: must be at least 2, since there are iter - 1 rounds of pruning")
        if len(original.lr1) < self.rounds + (self.density is None):
            raise UserError(
                f"--lr1: {len(original.lr1)} values for {self.rounds} rounds of pruning; give one per round"
                + ("" if self.density else ", after a first value that the original code does not use")
            )
        if len(original.lr2) < len(original.lcluster):
            raise UserError(
                f"--lr2: {len(original.lr2)} values for {len(original.lcluster)} values of --lcluster; give one for each"
            )
        if (self.conv_bits is None) != (self.fc_bits is None):
            given, missing = ("--conv-bits", "--fc-bits") if self.fc_bits is None else ("--fc-bits", "--conv-bits")
            raise UserError(f"{given} is given without {missing}; give both or neither")
        check_milestones("--lrsch_1", original.lrsch_1)
        check_milestones("--lrsch_2", original.lrsch_2)
        self.pruning_plan()
        self.pruning_training()
        if original.apply_sharing:
            self.quantizations()

    @property
    def rounds(self) -> int:
        """Number of rounds of pruning."""
        return len(self.density) if self.density else self.original.iter - 1

    @property
    def _rates(self) -> tuple[float, ...]:
        """One learning rate per round; the original code counts rounds from 1 and does not use the first value."""
        return (self.original.lr1 if self.density else self.original.lr1[1:])[: self.rounds]

    def pruning_plan(self) -> PruningPlan:
        """Return the plan of all rounds of pruning."""
        from deep_compression.compression_recipe import PruningPlan

        rule = "density" if self.density else "std"
        return PruningPlan(rule, self.density or (self.quality,) * self.rounds, {}, self.std_of_nonzero, self._rates)

    def pruning_training(self) -> TrainOptions:
        """Return the training options of the remaining weights after each round."""
        return self._training(self._rates[0], self.original.lrsch_1)

    def quantizations(self) -> list[tuple[str, QuantizationPlan, TrainOptions]]:
        """Return the label, plan and training options of each quantized network."""
        from deep_compression.compression_recipe import QuantizationPlan

        original = self.original
        wanted: list[tuple[str, dict[str, Any]]] = [(f"Shared{k:02d}", {"clusters": k}) for k in original.lcluster]
        if self.conv_bits is not None:
            sizes = {"conv_bits": self.conv_bits, "fc_bits": self.fc_bits}
            wanted = [(f"Shared{self.conv_bits}-{self.fc_bits}bits", sizes)]
        kind = "" if original.cluster_method == "GMM" else f"-{original.cluster_method}"
        return [
            (
                label + kind,
                QuantizationPlan(
                    original.cluster_method,
                    self.centroid_init,
                    **sizes,
                    bias_bits=self.bias_bits,
                    rounding=self.rounding,
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
