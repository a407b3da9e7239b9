"""Command-line options: those of the original code, with its defaults and help texts, and additional ones."""

import argparse
from collections.abc import Sequence
from typing import Any

from common.cli import (
    BELOW_ONE,
    EPOCHS,
    IMAGES,
    LEARNING_RATE,
    TARGET_LATENCY,
    TARGET_MACS,
    WEIGHT,
    WORKERS,
    command_line,
    fraction,
    positive_int,
    shorten,
)
from common.errors import UserError
from common.normalization import normalization
from common.options import (
    ARCHITECTURES_HELP,
    DATASETS_HELP,
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    NORMALIZE_HELP,
    TARGET_LATENCY_HELP,
    HardwareOptions,
    ImageOptions,
    PrecisionOptions,
    RepeatOptions,
    RuntimeOptions,
    model_option,
    train_options,
)
from common.settings import command, option, section, settings
from common.training.train_options import TrainOptions

PACKAGE = "redundancy_graph"
GENERATE = "generate_prune_info.py"
REPORT = "report.json"  # in the folder of a prune-info file
ORIGINAL_DATASET_DIRS = {"cifar10": "./cifar10/dataset/", "imagenet": "./imagenet/dataset/"}
SIMILARITY_LAYERS = ("first", "all")
BN_MODES = ("eval", "train")
VGG_HIDDEN = ("512", "shrunk")


class ThresholdAction(argparse.Action):
    """Parse ``--threshold 0.7``, ``--threshold 0.65 0.7`` or, as in the original README, ``--threshold [0.65 0.7]``."""

    range = fraction

    def __call__(self, parser, namespace, values, *_) -> None:
        try:
            setattr(namespace, self.dest, parse_thresholds(values))
        except UserError as error:
            parser.error(str(error))


def parse_thresholds(words: Sequence[str]) -> list[float]:
    """Parse thresholds in (0, 1], with optional brackets and commas; duplicates are dropped and the order is kept."""
    numbers = " ".join(words).replace("[", " ").replace("]", " ").replace(",", " ").split()
    if not numbers:
        raise UserError("--threshold: no value given; specify at least one number, for example 0.7")
    thresholds = []
    for number in numbers:
        try:
            value = float(number)
        except ValueError:
            raise UserError(f"--threshold {shorten(number)}: not a number; use values in {fraction}") from None
        if value not in fraction:
            raise UserError(f"--threshold {shorten(number)}: must be in {fraction}, because it is a similarity")
        thresholds.append(value)
    return list(dict.fromkeys(thresholds))


def threshold_option(*thresholds: float) -> Any:
    """Return the option --threshold; every value gives one network."""
    return option(
        list(thresholds),
        "similarity threshold",
        nargs="+",
        action=ThresholdAction,
        type=str,
    )


def mini_batch_option() -> Any:
    return option(100, "number of inputs to calculate average similarity", type=IMAGES)


@settings
class SourceOptions:
    """Network and data."""

    pretrained: str | None = option(
        None, "file of trained weights, instead of PRETRAIN_DIR/ARCH-weights.pth", metavar="FILE"
    )
    model: str | None = model_option("; requires --pretrained")
    dataset: str | None = option(
        None, f"{DATASETS_HELP} (default: imagenet if the network's input is 224x224, else cifar10)"
    )
    normalize: str | None = option(
        None, f"{NORMALIZE_HELP} (default: those that the weights were trained with)", type=normalization
    )
    images: ImageOptions = section(ImageOptions)
    workers: int = option(2, "processes that load images if they do not fit in memory", type=WORKERS, free=True)

    def __post_init__(self) -> None:
        if self.model and not self.pretrained:
            raise UserError("--model: requires the trained weights of that network; add --pretrained FILE")


@settings
class SelectionOptions:
    """Filter selection."""

    target_macs: float | None = option(
        None,
        "keep at most this fraction F of the dense MACs, and at least 0.98 F; the threshold is chosen automatically (replaces --threshold)",
        type=TARGET_MACS,
        metavar="F",
    )
    target_latency: float | None = option(
        None,
        f"{TARGET_LATENCY_HELP}, and at least 0.95 F; the threshold is chosen automatically (replaces --threshold)",
        type=TARGET_LATENCY,
        metavar="F",
    )
    latency_batch_size: int | None = option(None, LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str | None = option(None, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    similarity_layer: str = option(
        SIMILARITY_LAYERS[0],
        "for filters that can only be pruned together (those of a residual stream): compare the feature maps of the first of their layers, or of all of them",
        choices=SIMILARITY_LAYERS,
    )
    bn_mode: str = option(
        BN_MODES[0],
        "batch-norm statistics while feature maps are computed: the running statistics (eval), or the batch's own (train, as in the original code)",
        choices=BN_MODES,
    )
    augment: bool = option(
        False, "randomly crop and flip the images from which feature maps are computed, as in the original code"
    )
    vgg_hidden: str = option(
        VGG_HIDDEN[0],
        "size of VGG's hidden linear layer: 512 units, or as many as filters kept in the last convolution (shrunk, as in the original code)",
        choices=VGG_HIDDEN,
    )

    def __post_init__(self) -> None:
        if self.target_macs is not None and self.target_latency is not None:
            raise UserError("--target-macs and --target-latency exclude each other; give one")

    @property
    def has_target(self) -> bool:
        """Whether the threshold is chosen for a target."""
        return self.target_macs is not None or self.target_latency is not None


@settings
class PlotOptions:
    """Plots."""

    plots: bool = option(
        False,
        "plot kept filters per layer and similarities of one layer when prune info is generated, and accuracy against MACs"
        " after fine-tuning",
        free=True,
    )
    plot_layer: str | None = option(
        None,
        "layer of the similarity plot (default: the layer that loses the most filters); requires --plots",
        free=True,
    )

    def __post_init__(self) -> None:
        if self.plot_layer and not self.plots:
            raise UserError(f"--plot-layer {self.plot_layer}: nothing is plotted; add --plots")


@settings
class GeneratePruneInfo:
    """Generate Pruning Information"""

    arch: str = option("vgg16", f"model architecture: {ARCHITECTURES_HELP}")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(ORIGINAL_DATASET_DIRS["cifar10"], "dataset saved directory")
    saved_dir: str = option("./cifar10/prune-info/", "pruning information saved directory", free=True)
    log_dir: str = option("./cifar10/log/generate-prune-info/", "log file saved directory", free=True)
    mini_batch: int = mini_batch_option()
    threshold: list[float] = threshold_option(0.7)
    selection: SelectionOptions = section(SelectionOptions)
    source: SourceOptions = section(SourceOptions)
    plotting: PlotOptions = section(PlotOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class PruneCifar10:
    """Fine-tune Pruned Model on CIFAR-10"""

    arch: str = option("vgg16", f"model architecture: {ARCHITECTURES_HELP}")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(ORIGINAL_DATASET_DIRS["cifar10"], "dataset saved directory")
    pruneinfo_dir: str = option("./cifar10/prune-info/", "pruning information saved directory", free=True)
    saved_dir: str = option("./cifar10/fine-tune/", "pruned model saved directory", free=True)
    log_dir: str = option("./cifar10/log/fine-tune/", "log file saved directory", free=True)
    threshold: list[float] = threshold_option(0.7)
    epochs: int = option(90, "number of fine-tuning epochs", type=EPOCHS)
    batch_size: int = option(256, "batch size", type=positive_int)
    learning_rate: float = option(0.01, "initial learning rate", type=LEARNING_RATE)
    momentum: float = option(0.9, "momentum", type=BELOW_ONE)
    weight_decay: float = option(5e-4, "weight decay", type=WEIGHT)
    adjust: int = option(30, "learning rate decay step", type=positive_int)
    generate: bool = option(
        False, "compute the pruning information if its file is missing; --target-macs implies this", free=True
    )
    mini_batch: int = mini_batch_option()
    tensorboard: str | None = option(None, "folder for TensorBoard logs", free=True)
    no_latency: bool = option(False, "do not measure latency", free=True)
    selection: SelectionOptions = section(SelectionOptions)
    source: SourceOptions = section(SourceOptions, dataset="cifar10")
    plotting: PlotOptions = section(PlotOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    running: RuntimeOptions = section(RuntimeOptions)

    def __post_init__(self) -> None:
        self.recipe()  # raises UserError for a value out of range

    def recipe(self) -> TrainOptions:
        """Return the recipe: SGD, learning rate divided by ten after every ``--adjust`` epochs, as in the original code."""
        return train_options(
            self.precision,
            self.running,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="multi-step",
            milestones=milestones(self.epochs, self.adjust),
            gamma=0.1,
        )


@settings
class PruneImagenet(PruneCifar10):
    """Fine-tune Pruned Model on ImageNet"""

    arch: str = option("resnet50", f"model architecture: {ARCHITECTURES_HELP}")
    pretrain_dir: str = option("./imagenet/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(ORIGINAL_DATASET_DIRS["imagenet"], "dataset saved directory")
    pruneinfo_dir: str = option("./imagenet/prune-info/", "pruning information saved directory", free=True)
    saved_dir: str = option("./imagenet/fine-tune/", "pruned model saved directory", free=True)
    log_dir: str = option("./imagenet/log/fine-tune/", "log file saved directory", free=True)
    epochs: int = option(65, "number of fine-tuning epochs", type=EPOCHS)
    weight_decay: float = option(1e-4, "weight decay", type=WEIGHT)
    source: SourceOptions = section(SourceOptions, dataset="imagenet")


def milestones(epochs: int, adjust: int) -> tuple[int, ...]:
    """Return the epochs after which the learning rate drops: every multiple of ``adjust`` below ``epochs``."""
    return tuple(range(adjust, epochs, adjust))


def run_label(name: str, threshold: float | None, selection: SelectionOptions) -> str:
    """Return the label of the files of one pruned network: ``<arch>-<threshold>``, or ``<arch>-macs<F>`` for a target."""
    if threshold is not None:
        return f"{name}-{threshold!r}"
    latency = selection.target_latency
    return f"{name}-macs{selection.target_macs!r}" if latency is None else f"{name}-latency{latency!r}"


def run_labels(name: str, settings: GeneratePruneInfo | PruneCifar10) -> dict[str, float | None]:
    """Return {label: threshold}, one entry per network; None if the threshold must be found for a target."""
    if settings.selection.has_target:
        return {run_label(name, None, settings.selection): None}
    return {run_label(name, threshold, settings.selection): threshold for threshold in settings.threshold}


def main_generate(argv: Sequence[str] | None = None) -> int:
    def body(settings: GeneratePruneInfo) -> None:
        from redundancy_graph.generate import generate_prune_info

        generate_prune_info(settings, command_line(GENERATE, argv))

    return command(GeneratePruneInfo, body, argv, GENERATE, PACKAGE)


def main_cifar10(argv: Sequence[str] | None = None) -> int:
    return _fine_tuning(PruneCifar10, "prune_cifar10.py", argv)


def main_imagenet(argv: Sequence[str] | None = None) -> int:
    return _fine_tuning(PruneImagenet, "prune_imagenet.py", argv)


def _fine_tuning(cls: type[PruneCifar10], prog: str, argv: Sequence[str] | None) -> int:
    def body(settings: PruneCifar10) -> None:
        from redundancy_graph.prune_and_finetune import prune_and_finetune

        prune_and_finetune(settings, command_line(prog, argv))

    return command(cls, body, argv, prog, PACKAGE)
