"""Options shared by several commands, and the names listed in their help. This module does not import torch."""

import dataclasses
from collections.abc import Collection
from importlib.metadata import entry_points
from typing import Any

from common.cli import BETWEEN, GIB, IMAGE_SIDE, ROUNDING, SEED, THREADS, WORKERS, fraction, positive_int
from common.errors import UserError
from common.normalization import NORMALIZATION_NAMES, normalization
from common.preprocessing import INTERPOLATIONS
from common.runtimes import RUNTIMES
from common.settings import option, section, settings
from common.training.train_options import GRAPHS, OPTIMIZERS, RANGES, SCHEDULES, TrainOptions, check_milestones

ARCHITECTURE_NAMES = (
    "vgg16",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "densenet40",
    "googlenet",
    "alexnet",
    "resnet50",
    "mobilenet_v1",
    "mobilenet_v2",
    "vgg16_imagenet",
    "lenet300_100",
    "lenet5",
    "fc4096",
    "efficientnet_lite0",
    "squeezenet1_0",
    "squeezenet1_1",
)
ARCHITECTURES_HELP = (
    f"{', '.join(ARCHITECTURE_NAMES)} (common.models; other networks, also torchvision's and timm's: --model)"
)
FACTORY = "PACKAGE.MODULE:FACTORY or FILE.py:FACTORY"
METHOD_GROUP = "compression_papers.methods"  # of entry points
LIBRARIES = ("torchvision.models:", "timm:", "timm.models:")  # beginnings of --model that name a network of a library
NO_INPUT_SHAPE = "--input-shape: the network does not record its input shape; give it, e.g. --input-shape 3 224 224"
TARGET_LATENCY_HELP = "fraction of the dense network's time on this machine to keep, as measured"
LATENCY_BATCH_HELP = "images per forward pass of --target-latency (default: 1)"
LATENCY_RUNTIMES = tuple(name for name in RUNTIMES if name != "compile")  # which takes seconds for each layer
LATENCY_RUNTIME_HELP = "runtime in which --target-latency is measured (default: torch)"
LATENCY_BATCHES = (1, 64)  # images per forward pass
LATENCY_SECONDS = 20.0  # longest measurement of a table; of a single result:
LATENCY_SECONDS_OF_A_RESULT = 2.0
SHORTCUTS = ("pad", "conv3x3")


def method_names() -> list[str]:
    """Return the names of the installed methods, without importing them."""
    return sorted(point.name for point in entry_points(group=METHOD_GROUP))


def model_option(more: str = "") -> Any:
    """Return the option --model. more: what else there is to it in a command."""
    return option(
        None,
        f"your own network, as {FACTORY}: a function that returns it, e.g. mynet.py:build (called with num_classes if it accepts that); "
        f"or a network of a library by name, e.g. torchvision.models:mobilenet_v2 or timm:efficientnet_lite0{more}",
    )


def input_shape_option(more: str = "", **argument: Any) -> Any:
    """Return the option --input-shape. argument: further arguments of ``add_argument``."""
    about = "shape of one example that the network reads, without the batch, e.g. 3 224 224"
    return option(None, about + more, type=IMAGE_SIDE, nargs="+", metavar="SIZE", **argument)


WEIGHTS_HELP = (
    "state dict (.pth, .th, .safetensors), or the name of a library's own weights, pretrained or e.g. IMAGENET1K_V1, with their "
    "preprocessing and classes"
)


@settings
class NetworkOptions:
    """Network."""

    arch: str | None = option(None, f"architecture: {ARCHITECTURES_HELP}")
    weights: str | None = option(None, f"trained weights for --arch or --model: {WEIGHTS_HELP}")
    checkpoint: str | None = option(None, "trained network saved by this project (model.safetensors)")
    model: str | None = model_option("; replaces --arch")
    shortcut: str | None = option(
        None, "type of shortcut in CIFAR ResNets (default: detected from the weights)", choices=SHORTCUTS
    )

    def __post_init__(self) -> None:
        if self.checkpoint and self.weights:
            raise UserError("--checkpoint and --weights exclude each other; give one file")


@settings
class ImageOptions:
    """Images."""

    split: float | None = option(
        None,
        "fraction of the images of each class to hold out for testing, for a folder without train and test: the same images for "
        "every seed, and nearly the same ones after others were added",
        type=BETWEEN,
        metavar="F",
    )
    image_size: int | None = option(
        None,
        "height and width of the images of a folder, which are resized and cropped to it: up to 64 in memory, else read from "
        "disk (default: that of the network, else small images of one size as they are, others 224)",
        type=IMAGE_SIDE,
        metavar="N",
    )
    resize: int | None = option(
        None,
        "shorter side of an image before its center is cropped to --image-size (default: in the network's proportion, else 8/7 of it, "
        "for images in memory the same)",
        type=IMAGE_SIDE,
        metavar="N",
    )
    interpolation: str | None = option(
        None,
        "interpolation of the images that are resized (default: that of the network, else bilinear)",
        choices=INTERPOLATIONS,
    )
    channels: str | None = option(
        None,
        "number of channels: 1 converts images to gray, 3 repeats gray ones (default: those of the data set, 3 for folders; gray "
        "images are also read by a network of one channel)",
        choices=("1", "3"),
    )
    classes: str | None = option(
        None,
        "file with the names of the network's classes in the order of its outputs, one per line, or their number (default: those of "
        "the folders, sorted, or of the checkpoint)",
        metavar="FILE",
    )
    image_memory: float | None = option(
        None,
        "memory for decoded images of a folder, which are then decoded once; further ones are decoded whenever they are used (default: 2, "
        "at most a quarter of the available memory)",
        type=GIB,
        metavar="GIB",
        free=True,
    )
    labels: str | None = option(
        None,
        "CSV file with the class of each image of folder:PATH, a number from 0 or a name, for a folder without class folders; "
        "without --split, all images are test images",
        metavar="FILE",
    )
    label_columns: list[str] = option(
        [],
        "names of the columns of --labels with the files and with the classes (default: found by usual names, such as file and label)",
        type=str,
        metavar="COLUMN",
    )
    swap_split: bool = option(
        False, "exchange the two parts of --split: test on the images that would be training images"
    )


DATASETS_HELP = (
    "data set: digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, cub200, or folder:PATH "
    "(images in PATH/train and in either PATH/val or PATH/test, or class folders in PATH and --split; "
    "numeric-folder:PATH sorts class folders by number)"
)
NORMALIZE_HELP = (
    f"mean and standard deviation of each channel, for pixels from 0 to 1: {', '.join(NORMALIZATION_NAMES)} (measured on "
    "its training images), or numbers such as 0.49,0.48,0.45:0.2,0.2,0.2"
)
DATA_FOLDER_HELP = (
    "in the data folder: $COMPRESSION_PAPERS_DATA, else data in the current folder or in that of this project"
)
DATASET_DIR_HELP = (
    f"folder of the data set; not required for digits (default: the folder of its name {DATA_FOLDER_HELP})"
)


@settings
class DataOptions:
    """Data."""

    dataset: str = option("digits", DATASETS_HELP)
    dataset_dir: str | None = option(None, DATASET_DIR_HELP)
    normalize: str | None = option(
        None, f"{NORMALIZE_HELP} (default: that of the checkpoint, else the data set's own)", type=normalization
    )
    images: ImageOptions = section(ImageOptions)
    workers: int = option(
        2, "number of image-loading processes for data sets that do not fit in memory", type=WORKERS, free=True
    )


@settings
class CalibrationOptions:
    """Statistics."""

    calibration_images: int | None = option(
        None,
        "number of training images from which methods that do not train take their statistics (default: 200)",
        type=positive_int,
        metavar="N",
    )


@settings
class LimitOptions:
    """Limits of pruning."""

    ignored_layers: list[str] = option(
        [],
        "patterns of names of layers that are not pruned, e.g. 'layer1.*' (a name includes the layers in it); methods that target "
        "bytes leave their weights alone",
        type=str,
        metavar="PATTERN",
    )
    only: list[str] = option(
        [], "patterns of names of the only layers that may be pruned, e.g. 'backbone.*'", type=str, metavar="PATTERN"
    )
    min_channels: int = option(
        1, "smallest number of channels that a pruned layer keeps", type=positive_int, metavar="N"
    )
    max_pruned: float = option(
        1.0, "largest fraction of a layer's channels that may be removed", type=fraction, metavar="F"
    )
    round_to: int = option(
        1, "number that the widths of pruned layers are multiples of, such as 8", type=ROUNDING, metavar="N"
    )


@settings
class HardwareOptions:
    """Hardware."""

    device: str = option("auto", "device: auto (CUDA if available), cpu, cuda or cuda:N", free=True)
    threads: int | None = option(None, "number of CPU threads (default: chosen by torch)", type=THREADS, free=True)


@settings
class RepeatOptions:
    """Reproducibility."""

    seed: int = option(0, "random seed", type=SEED)
    force: bool = option(False, "overwrite a run folder whose run used other options (otherwise an error)", free=True)


@settings
class PrecisionOptions:
    """Numeric precision and compilation."""

    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    compile: bool = option(False, "compile the training step with torch.compile")


@settings
class TrainingOptions:
    """Training."""

    epochs: int = option(10, "number of epochs", type=RANGES["epochs"])
    batch_size: int = option(128, "number of images per step, summed over all processes", type=RANGES["batch_size"])
    learning_rate: float = option(0.1, "initial learning rate", type=RANGES["learning_rate"])
    momentum: float = option(0.9, "SGD momentum", type=RANGES["momentum"])
    weight_decay: float = option(5e-4, "weight decay", type=RANGES["weight_decay"])
    nesterov: bool = option(False, "use Nesterov momentum")
    optimizer: str = option("sgd", "optimizer", choices=OPTIMIZERS)
    schedule: str = option("cosine", "learning-rate schedule", choices=SCHEDULES)
    milestones: list[int] = option(
        [], "epochs at which the multi-step schedule reduces the learning rate", type=positive_int
    )
    step_size: int = option(
        30, "number of epochs between learning-rate reductions in the step schedule", type=RANGES["step_size"]
    )
    gamma: float = option(
        0.1, "factor by which the step and multi-step schedules multiply the learning rate", type=RANGES["gamma"]
    )
    warmup_epochs: float = option(0.0, "number of linear warm-up epochs", type=RANGES["warmup_epochs"])
    label_smoothing: float = option(0.0, "label smoothing", type=RANGES["label_smoothing"])
    sync_batch_norm: bool = option(False, "synchronize batch norm over all processes (CUDA)")

    def __post_init__(self) -> None:
        check_milestones("--milestones", self.milestones)
        if self.milestones and self.schedule != "multi-step":
            given = " ".join(map(str, self.milestones))
            raise UserError(f"--milestones {given}: not used by --schedule {self.schedule}; add --schedule multi-step")
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise UserError("--nesterov: requires momentum; give --momentum above 0, or leave --nesterov out")


@settings
class RuntimeOptions:
    """Execution."""

    evaluate_every: int = option(
        1,
        "evaluate on the test set every N epochs and after the last one, for the log",
        type=RANGES["evaluate_every"],
        metavar="N",
        free=True,
    )
    keep_every: float | None = option(
        None,
        "save the training state at the end of an epoch, at most once per this many seconds (default: 0 on a CPU, 60 on a GPU)",
        type=RANGES["keep_every"],
        metavar="SECONDS",
        free=True,
    )
    deterministic: bool = option(
        False, "use deterministic CUDA algorithms, so that resuming is bit-identical; slower", free=True
    )
    graph: str = option("off", "auto: run the training step as a CUDA graph where possible", choices=GRAPHS, free=True)


def train_options(*sections: Any, **overrides: Any) -> TrainOptions:
    """Create a training recipe from sections of options; values missing in all of them keep their defaults."""
    given = training_values(*sections, without=overrides) | overrides
    if "milestones" in given:
        given["milestones"] = tuple(given["milestones"])
    return TrainOptions(**given)


def training_values(*sections: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Return {name: value} of the options in these sections that belong to a recipe, except those in ``without``."""
    names = {field.name for field in dataclasses.fields(TrainOptions)} - set(without)
    return {
        field.name: getattr(values, field.name)
        for values in sections
        for field in dataclasses.fields(values)
        if field.name in names
    }
