"""The commands and their options: those of the original code, with its defaults and help, and additional ones."""

import argparse
from collections.abc import Sequence
from typing import Any

from common.cli import command_line, fraction, nonnegative_int, positive_int
from common.errors import UserError
from common.options import PrecisionOptions, RepeatOptions, RunningOptions, RunOptions, train_options
from common.settings import command, option, section, settings
from common.training.options import TrainOptions

PACKAGE = "redundancy_graph"
SEED_DIRS = {"cifar10": "./cifar10/dataset/", "imagenet": "./imagenet/dataset/"}
DECIDERS = ("nearest", "all")
BN_MODES = ("eval", "train")
HIDDEN = ("512", "shrunk")


class ThresholdAction(argparse.Action):
    """``--threshold 0.7``, ``--threshold 0.65 0.7`` or, as in the authors' README, ``--threshold [0.65 0.7]``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            setattr(namespace, self.dest, parse_thresholds(values))
        except UserError as error:
            parser.error(str(error))


def parse_thresholds(words: Sequence[str]) -> list[float]:
    """Thresholds in (0, 1] from words that may carry brackets and commas; without repetition, in the order given."""
    numbers = " ".join(words).replace("[", " ").replace("]", " ").replace(",", " ").split()
    if not numbers:
        raise UserError("--threshold: give at least one number, such as 0.7")
    thresholds = []
    for number in numbers:
        try:
            value = float(number)
        except ValueError:
            raise UserError(f"--threshold {number}: not a number") from None
        if not 0 < value <= 1:  # nan is refused here too
            raise UserError(f"--threshold {number}: a similarity lies in (0, 1]; above 1 nothing would be removed")
        thresholds.append(value)
    return list(dict.fromkeys(thresholds))


def threshold_option(*thresholds: float) -> Any:
    """The option --threshold; a network for each of its values."""
    return option(list(thresholds), "similarity threshold", nargs="+", action=ThresholdAction, type=str)


def mini_batch_option() -> Any:
    return option(100, "number of inputs to calculate average similarity", type=positive_int)


@settings
class Source:
    """Network and data."""

    pretrained: str | None = option(None, "trained weights, instead of PRETRAIN_DIR/ARCH-weights.pth", metavar="FILE")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY, your own network; needs --pretrained")
    dataset: str | None = option(
        None,
        "digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or folder:PATH; if not given imagenet for networks"
        " that read 224 pixels, else cifar10",
    )
    normalize: str | None = option(None, "imagenet or cifar10: mean and deviation other than the weights'")
    workers: int = option(2, "processes that read pictures which do not fit in memory", type=nonnegative_int, free=True)

    def __post_init__(self) -> None:
        if self.model and not self.pretrained:
            raise UserError("--model needs --pretrained FILE, the trained weights of that network")


@settings
class Decisions:
    """Decisions."""

    target_macs: float | None = option(
        None,
        "fraction of the dense MACs to keep: instead of --threshold, the threshold that meets [0.98 F, F]",
        type=fraction,
        metavar="F",
    )
    decider: str = option(
        DECIDERS[0],
        "layer that decides for coupled filters: the one nearest to the input, or all of them together",
        choices=DECIDERS,
    )
    bn_mode: str = option(
        BN_MODES[0],
        "batch norm while maps are taken: the network's statistics, or those of the pictures, as the authors",
        choices=BN_MODES,
    )
    augment: bool = option(False, "crop and flip the pictures that maps are taken of, as the authors")
    vgg_hidden: str = option(
        HIDDEN[0],
        "VGG's hidden linear layer: 512 units, or shrunk to the filters of the last convolution, as the original code",
        choices=HIDDEN,
    )


@settings
class Plots:
    """Plots."""

    plots: bool = option(False, "draw kept filters per layer, a heat map, accuracy against MACs", free=True)
    plot_layer: str | None = option(
        None, "layer of the heat map; the one that loses most filters if not given", free=True
    )


@settings
class Generate:
    """Generate Pruning Information"""

    arch: str = option("vgg16", "model architecture")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(SEED_DIRS["cifar10"], "dataset saved directory")
    saved_dir: str = option("./cifar10/prune-info/", "pruning information saved directory", free=True)
    log_dir: str = option("./cifar10/log/generate-prune-info/", "log file saved directory", free=True)
    mini_batch: int = mini_batch_option()
    threshold: list[float] = threshold_option(0.7)
    decisions: Decisions = section(Decisions)
    source: Source = section(Source)
    plotting: Plots = section(Plots)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class FineTune:
    """Fine-tune Pruned Model on CIFAR-10"""

    arch: str = option("vgg16", "model architecture")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(SEED_DIRS["cifar10"], "dataset saved directory")
    pruneinfo_dir: str = option("./cifar10/prune-info/", "pruning information saved directory", free=True)
    saved_dir: str = option("./cifar10/fine-tune/", "pruned model saved directory", free=True)
    log_dir: str = option("./cifar10/log/fine-tune/", "log file saved directory", free=True)
    threshold: list[float] = threshold_option(0.7)
    epochs: int = option(90, "number of fine-tuning epochs")
    batch_size: int = option(256, "batch size", type=positive_int)
    learning_rate: float = option(0.01, "initial learning rate")
    momentum: float = option(0.9, "momentum")
    weight_decay: float = option(5e-4, "weight decay")
    adjust: int = option(30, "learning rate decay step", type=positive_int)
    generate: bool = option(False, "make prune info that is missing; --target-macs always does", free=True)
    mini_batch: int = mini_batch_option()
    tensorboard: str | None = option(None, "folder for TensorBoard", free=True)
    no_latency: bool = option(False, "do not measure latency", free=True)
    decisions: Decisions = section(Decisions)
    source: Source = section(Source, dataset="cifar10")
    plotting: Plots = section(Plots)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    running: RunningOptions = section(RunningOptions)

    def __post_init__(self) -> None:
        self.recipe()  # raises UserError for a value out of range

    def recipe(self) -> TrainOptions:
        """SGD with the learning rate divided by ten after every ``--adjust`` epochs, as in the original code."""
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
class FineTuneImagenet(FineTune):
    """Fine-tune Pruned Model on ImageNet"""

    arch: str = option("resnet50", "model architecture")
    pretrain_dir: str = option("./imagenet/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(SEED_DIRS["imagenet"], "dataset saved directory")
    pruneinfo_dir: str = option("./imagenet/prune-info/", "pruning information saved directory", free=True)
    saved_dir: str = option("./imagenet/fine-tune/", "pruned model saved directory", free=True)
    log_dir: str = option("./imagenet/log/fine-tune/", "log file saved directory", free=True)
    epochs: int = option(65, "number of fine-tuning epochs")
    weight_decay: float = option(1e-4, "weight decay")
    source: Source = section(Source, dataset="imagenet")


def milestones(epochs: int, adjust: int) -> tuple[int, ...]:
    """Epochs after which the learning rate drops: every multiple of ``adjust`` below ``epochs``."""
    return tuple(range(adjust, epochs, adjust))


def label_of(name: str, threshold: float | None, target_macs: float | None) -> str:
    """What the files of one pruned network are called: ``<arch>-<threshold>``, or ``<arch>-macs<F>`` for a target."""
    return f"{name}-{threshold!r}" if target_macs is None else f"{name}-macs{target_macs!r}"


def labels(name: str, settings: Generate | FineTune) -> dict[str, float | None]:
    """{label: threshold}, one entry per network that the options ask for; a threshold still to be found is None."""
    target = settings.decisions.target_macs
    if target is not None:
        return {label_of(name, None, target): None}
    return {label_of(name, threshold, None): threshold for threshold in settings.threshold}


def main_generate(argv: Sequence[str] | None = None) -> int:
    def body(settings: Generate) -> None:
        from redundancy_graph.generate import generate_prune_info

        generate_prune_info(settings)

    return command(Generate, body, argv, "generate_prune_info.py", PACKAGE)


def main_cifar10(argv: Sequence[str] | None = None) -> int:
    return _fine_tuning(FineTune, "prune_cifar10.py", argv)


def main_imagenet(argv: Sequence[str] | None = None) -> int:
    return _fine_tuning(FineTuneImagenet, "prune_imagenet.py", argv)


def _fine_tuning(cls: type[FineTune], prog: str, argv: Sequence[str] | None) -> int:
    def body(settings: FineTune) -> None:
        from redundancy_graph.prune import prune

        prune(settings, command_line(prog, argv))

    return command(cls, body, argv, prog, PACKAGE)
