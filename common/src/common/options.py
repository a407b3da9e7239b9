"""Options that several commands share, and names that their help lists: nothing here imports torch."""

import dataclasses
from collections.abc import Collection
from typing import Any

from common.cli import nonnegative_int, positive_int
from common.settings import option, settings
from common.training.train_options import GRAPHS, OPTIMIZERS, SCHEDULES, TrainOptions

ARCHITECTURE_NAMES = (
    "vgg16",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "densenet40",
    "resnet50",
    "mobilenet_v1",
    "mobilenet_v2",
    "vgg16_imagenet",
    "lenet300_100",
    "lenet5",
    "fc4096",
)
LATENCY_BATCHES = (1, 64)  # images at once
LATENCY_REPEATS = 9
SHORTCUTS = ("pad", "conv3x3")


@settings
class NetworkOptions:
    """Network."""

    arch: str | None = option(None, f"one of {', '.join(ARCHITECTURE_NAMES)}")
    weights: str | None = option(None, "state dict to load into --arch or --model (.pth, .th, .safetensors)")
    checkpoint: str | None = option(None, "a model.safetensors of this project: network and weights")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY, a callable that builds your own network")
    shortcut: str | None = option(None, "CIFAR ResNets; from the weights if given", choices=SHORTCUTS)


@settings
class DataOptions:
    """Data."""

    dataset: str = option(
        "digits",
        "digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or folder:PATH (PATH/train and PATH/val or PATH/test)",
    )
    dataset_dir: str | None = option(None, "folder of the data set; digits needs none")
    normalize: str | None = option(None, "imagenet or cifar10: mean and deviation other than the data set's")
    workers: int = option(2, "processes that read pictures which do not fit in memory", type=nonnegative_int, free=True)


@settings
class RunOptions:
    """Run."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N", free=True)
    threads: int | None = option(None, "threads on the CPU; torch's choice if not given", free=True)


@settings
class RepeatOptions:
    """Repeat."""

    seed: int = option(0, "seed of everything that is drawn", type=nonnegative_int)
    force: bool = option(False, "start anew in a run folder that holds another run", free=True)


@settings
class PrecisionOptions:
    """Precision."""

    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    compile: bool = option(False, "torch.compile the training step")


@settings
class TrainingOptions:
    """Training."""

    epochs: int = option(10, "number of epochs")
    batch_size: int = option(128, "pictures per step, all processes together", type=positive_int)
    learning_rate: float = option(0.1, "initial learning rate")
    momentum: float = option(0.9, "momentum of SGD")
    weight_decay: float = option(5e-4, "weight decay")
    nesterov: bool = option(False, "Nesterov momentum")
    optimizer: str = option("sgd", "optimizer", choices=OPTIMIZERS)
    schedule: str = option("cosine", "course of the learning rate", choices=SCHEDULES)
    milestones: list[int] = option([], "epochs of multi-step")
    step_size: int = option(30, "epochs between drops of step", type=positive_int)
    gamma: float = option(0.1, "factor of a drop")
    warmup_epochs: float = option(0.0, "epochs of linear warm-up")
    label_smoothing: float = option(0.0, "label smoothing")
    sync_batch_norm: bool = option(False, "batch norm over all processes (CUDA)")


@settings
class RunningOptions:
    """Running."""

    evaluate_every: int = option(
        1,
        "evaluate the test set after every N-th epoch, for the log; after the last one always",
        type=positive_int,
        metavar="N",
        free=True,
    )
    keep_every: float | None = option(
        None,
        "write the state for resuming at most this often; after every epoch on a CPU, else every 60 seconds",
        metavar="SECONDS",
        free=True,
    )
    deterministic: bool = option(False, "on CUDA: resume bit-identical, more slowly", free=True)
    graph: str = option("off", "on CUDA: replay the step as a CUDA graph", choices=GRAPHS, free=True)


def train_options(*sections: Any, **overrides: Any) -> TrainOptions:
    """The recipe that these sections give; names that none of them has keep their usual values."""
    given = training_values(*sections, without=overrides) | overrides
    if "milestones" in given:
        given["milestones"] = tuple(given["milestones"])
    return TrainOptions(**given)


def training_values(*sections: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """{name: value} of the options in these sections that a recipe has, except those of ``without``."""
    names = {field.name for field in dataclasses.fields(TrainOptions)} - set(without)
    return {
        field.name: getattr(values, field.name)
        for values in sections
        for field in dataclasses.fields(values)
        if field.name in names
    }
