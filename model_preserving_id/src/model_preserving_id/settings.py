"""The options of this package's commands, and the commands main.py and train.py, without importing torch."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from common import cli
from common.cli import (
    BELOW_ONE,
    BETWEEN,
    CLASS_NUMBER,
    DEVICE_NUMBER,
    EPOCHS,
    IMAGES,
    LEARNING_RATE,
    ROUNDING,
    TARGET_LATENCY,
    TARGET_MACS,
    WEIGHT,
    WORKERS,
    Range,
    nonnegative_int,
    positive_int,
)
from common.errors import UserError
from common.normalization import normalization
from common.options import (
    ARCHITECTURE_NAMES,
    DATASET_DIR_HELP,
    DATASETS_HELP,
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    NORMALIZE_HELP,
    TARGET_LATENCY_HELP,
    DataOptions,
    HardwareOptions,
    ImageOptions,
    NetworkOptions,
    RepeatOptions,
    train_options,
)
from common.settings import REQUIRED, command, option, section, settings
from common.training.train_options import SCHEDULES, TrainOptions

if TYPE_CHECKING:
    from common.target import Target

PACKAGE = "model_preserving_id"

METHODS = ("iditer", "budget", "frac", "eps")
SCORES = ("pivot", "sigma", "frobenius", "output-change")
RESIDUAL_MODES = ("keep", "exact", "conv")
SELECTIONS = ("id", "outputs")
COMPENSATIONS = ("none", "t", "weights")
RECONSTRUCTION_IMAGES = 1000  # default number of calibration images for the compensation
CHECKPOINT = "checkpoint.pth.tar"


@settings
class ChannelPruningOptions:
    """Pruning options."""

    method: str = option(
        "iditer",
        "iditer: step by step to --target-macs (the paper); budget: the extended method, in one pass to --target-macs;"
        " frac: a fraction --k of every layer; eps: an error --eps in every layer",
        "--method",
        "--k-args",
        choices=METHODS,
    )
    k: float = option(0.95, "fraction of channels kept, by a step of iditer or in every layer by frac", type=BETWEEN)
    eps: float | None = option(
        None, "largest relative pivot error |r_k+1,k+1| / |r_11| of a layer, for --method eps", type=BELOW_ONE
    )
    target_macs: float = option(
        0.5, "fraction of the MACs to keep; the result has 0.98 F to F", type=TARGET_MACS, metavar="F"
    )
    target_latency: float | None = option(
        None,
        f"{TARGET_LATENCY_HELP}, instead of --target-macs; met within 0.95 F to F",
        type=TARGET_LATENCY,
        metavar="F",
    )
    latency_batch_size: int | None = option(None, LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str | None = option(None, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    prune_batch_size: int | None = option(
        None,
        "number of calibration images (training images); 5000, or all if there are fewer, if not given",
        type=IMAGES,
    )
    score: str | None = option(
        None,
        "criterion of a step: pivots (the paper), singular values (the authors' code for CIFAR-10), Frobenius norm, or change of the"
        " outputs; output-change for budget, else pivot, if not given",
        choices=SCORES,
    )
    selection: str | None = option(
        None,
        "channels that stay: those of the interpolative decomposition (id, the paper), or those without which the outputs of the layers"
        " that read them change most (outputs, not for iditer); outputs for budget, else id, if not given",
        choices=SELECTIONS,
    )
    update_every: float = option(
        0.0,
        "fraction of the MACs after which iditer re-estimates the statistics; 0: after every step (the paper)",
        type=BELOW_ONE,
    )
    residual: str = option(
        "keep",
        "residual streams: not pruned (keep), pruned where option-A shortcuts stay exact (exact), or pruned with shortcuts as 1x1 convolutions (conv)",
        choices=RESIDUAL_MODES,
    )
    ignored_layers: list[str] = option([], "layers that are not pruned", metavar="LAYER")
    round_to: int = option(1, "widths are multiples of this, such as 8", type=ROUNDING)
    compensation: str | None = option(
        None,
        "reconstruction of the consumers' weights: none (the paper), re-solve T (t), or re-solve the weights;"
        " weights for budget, else none, if not given",
        choices=COMPENSATIONS,
    )
    reconstruction_images: int = option(
        RECONSTRUCTION_IMAGES,
        "number of calibration images used for --compensation; all if there are fewer",
        type=IMAGES,
    )
    recalibrate_bn: bool = option(False, "recalibrate batch-norm statistics (not in the paper)")
    without_class: int | None = option(
        None, "class whose images are removed from the calibration images", type=CLASS_NUMBER
    )
    forward_blocksize: int | None = option(None, "batch size of the forward passes", type=positive_int)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method {self.method}: expected one of {', '.join(METHODS)}")
        if self.method == "iditer" and self.selection == "outputs":
            raise UserError("--selection outputs: channels are selected once, in one pass; add --method budget")
        if self.target_latency is not None and self.method not in ("iditer", "budget"):
            raise UserError(f"--target-latency: not used by --method {self.method}; use --method iditer or budget")
        if self.method == "eps" and self.eps is None:
            raise UserError("--method eps: --eps is missing; add for example --eps 0.05")
        if self.eps is not None and self.method != "eps":
            raise UserError(f"--eps {self.eps:g}: not used by --method {self.method}; use --method eps")

    def target(self) -> "Target | None":
        """Return the target of ``iditer`` and ``budget``; None for the other methods."""
        from common.target import Target, latency_target

        if self.method not in ("iditer", "budget"):
            return None
        if self.target_latency is not None:
            return latency_target(self.target_latency, self.latency_batch_size, self.latency_runtime)
        return Target(self.target_macs)

    @property
    def reconstruction(self) -> str:
        """``--compensation``, or its default for this method."""
        return self.compensation or ("weights" if self.method == "budget" else "none")

    @property
    def criterion(self) -> str:
        """``--score``, or its default for this method."""
        return self.score or ("output-change" if self.method == "budget" else "pivot")

    @property
    def channel_selection(self) -> str:
        """``--selection``, or its default for this method."""
        return self.selection or ("outputs" if self.method == "budget" else "id")

    @property
    def differences(self) -> list[str]:
        """How these settings differ from the paper's method; empty if they do not."""
        found = {
            "widths in one pass": self.method == "budget",
            f"score {self.criterion}": self.criterion not in ("pivot", "sigma"),
            "channels selected by the outputs of the layers that read them": self.channel_selection == "outputs",
            f"compensation {self.reconstruction}": self.reconstruction != "none",
            f"residual streams pruned ({self.residual})": self.residual != "keep",
            f"widths in multiples of {self.round_to}": self.round_to != 1,
            "batch norm recalibrated": self.recalibrate_bn,
            "statistics not re-estimated after every step": self.method == "iditer" and self.update_every,
        }
        return [text for text, differs in found.items() if differs]

    @property
    def variant(self) -> str:
        """ "paper" if these settings are the paper's method, else "extended" (ours)."""
        return "extended" if self.differences else "paper"

    @property
    def label(self) -> str:
        """Method and target, for the name of the run folder."""
        if self.target_latency is not None:
            return f"{self.method}-latency{self.target_latency:g}"
        target = {"iditer": self.target_macs, "budget": self.target_macs, "frac": self.k, "eps": self.eps}
        return f"{self.method}-{target[self.method]:g}"


@settings
class PruneChannels:
    """Prune a trained network with the interpolative decomposition."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions, seed=2)
    pruning: ChannelPruningOptions = section(ChannelPruningOptions)
    log_interval: int = option(
        0,
        "number of iditer steps between evaluations on the test images; 0: none",
        type=nonnegative_int,
        metavar="N",
        free=True,
    )
    no_latency: bool = option(False, "do not measure latency", free=True)
    out: str | None = option(None, "run folder; runs/DATASET/ARCH-METHOD-TARGET if not given", free=True)


@settings
class AdditionalOptions:
    """Additional options."""

    dataset: str | None = option(None, f"{DATASETS_HELP} (default: that of the checkpoint, else imagenet)")
    dataset_dir: str | None = option(None, DATASET_DIR_HELP)
    normalize: str | None = option(None, f"{NORMALIZE_HELP} (default: that of the checkpoint)", type=normalization)
    images: ImageOptions = section(ImageOptions)
    original: str | None = option(
        None, "unpruned network: reference for the agreement and teacher of --distill-weight", metavar="FILE"
    )
    distill_weight: float = option(0.0, "weight of the distillation term in the loss", metavar="ALPHA", type=WEIGHT)
    temperature: float = option(1.0, "softmax temperature of the distillation", type=Range(float, 0, 1e6, above=True))
    schedule: str = option("constant", "learning-rate schedule; constant as in the original code", choices=SCHEDULES)
    amp: bool = option(False, "automatic mixed precision (bfloat16)")

    def __post_init__(self) -> None:
        if self.distill_weight and not self.original:
            raise UserError(
                f"--distill-weight {self.distill_weight:g}: requires the unpruned network; add --original FILE"
            )


@settings
class FineTuneCompressed:
    """Fine-tune a compressed network."""

    pretrained: str = option(
        REQUIRED, "compressed network: modelIDiter_final.pt, .tp or model.safetensors", metavar="FILE"
    )
    arch: str = option(
        "vgg16", f"architecture of the original network: {', '.join(ARCHITECTURE_NAMES)}", "-a", "--arch"
    )
    workers: int = option(
        4,
        "number of processes that load images, for data sets that do not fit in memory",
        "-j",
        "--workers",
        type=WORKERS,
        free=True,
    )
    epochs: int = option(90, "number of epochs", type=EPOCHS)
    start_epoch: int = option(0, "number of epochs that count as completed", type=EPOCHS)
    batch_size: int = option(256, "images per step, over all processes", "-b", "--batch-size", type=positive_int)
    lr: float = option(0.1, "learning rate", "--lr", "--learning-rate", type=LEARNING_RATE)
    momentum: float = option(0.9, "momentum of SGD", type=BELOW_ONE)
    weight_decay: float = option(1e-4, "weight decay", "--wd", "--weight-decay", type=WEIGHT)
    print_freq: int = option(
        10, "accepted, not used; one line is printed per epoch", "-p", "--print-freq", type=positive_int, free=True
    )
    resume: str = option("", f"{CHECKPOINT} to resume from", metavar="FILE", free=True)
    evaluate: bool = option(False, "also evaluate before training", "-e", "--evaluate", "--evalute", free=True)
    log_dir: str = option("runs/fine-tune", "run folder", "--log_dir", "--log-dir", free=True)
    tensorboard_dir: str | None = option(
        None, "folder for TensorBoard", "--tensorboard_dir", "--tensorboard-dir", free=True
    )
    world_size: int = option(-1, "number of machines", free=True, type=Range(int, -1, 1024))
    rank: int = option(-1, "rank of this machine", free=True, type=Range(int, -1, 1023))
    dist_url: str = option("tcp://127.0.0.1:23456", "address of the first process", free=True)
    dist_backend: str = option("nccl", "backend; gloo is used if CUDA is not available", free=True)
    gpu: int | None = option(None, "index of the CUDA device", free=True, type=DEVICE_NUMBER)
    multiprocessing_distributed: bool = option(False, "one process per CUDA device", free=True)
    prune_batch_size: int | None = option(
        None, "accepted, not used; calibration images are training images here", type=IMAGES
    )
    repeat: RepeatOptions = section(RepeatOptions)
    run: HardwareOptions = section(HardwareOptions)
    more: AdditionalOptions = section(AdditionalOptions)

    def __post_init__(self) -> None:
        self.recipe()
        if self.start_epoch > self.epochs:
            raise UserError(
                f"--start-epoch {self.start_epoch}: larger than --epochs {self.epochs}; give at most as many"
            )
        machines = max(1, self.world_size)
        if self.rank >= machines:
            raise UserError(
                f"--rank {self.rank}: machines are numbered from 0; give at most {machines - 1}, or --world-size"
            )
        if machines > 1 and self.rank < 0 and "RANK" not in os.environ:
            raise UserError(
                f"--world-size {machines}: this machine has no number; give --rank 0 to {machines - 1}, a different one on each"
                " machine, or start the command with torchrun"
            )
        if self.gpu is not None and self.run.device != "auto":
            raise UserError(f"--gpu {self.gpu} and --device {self.run.device} exclude each other; give one")
        if self.tensorboard_dir is not None and find_spec("tensorboard") is None:
            raise UserError("--tensorboard_dir: the package tensorboard is not installed; pip install tensorboard")

    def recipe(self) -> TrainOptions:
        """Return the training options. Raises UserError for a value out of range."""
        return train_options(
            epochs=max(0, self.epochs - self.start_epoch),
            batch_size=self.batch_size,
            learning_rate=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.more.schedule,
            amp=self.more.amp,
        )


def prune_main(argv: Sequence[str] | None = None) -> int:
    """Run ``python main.py``; returns an exit status."""

    def body(given: PruneChannels) -> None:
        from model_preserving_id.command import prune

        prune(given, cli.command_line("python main.py", argv))

    return command(PruneChannels, body, argv, "main.py", PACKAGE)


def train_main(argv: Sequence[str] | None = None) -> int:
    """Run ``python train.py``; returns an exit status."""

    def body(given: FineTuneCompressed) -> None:
        from model_preserving_id.finetune import finetune

        finetune(given, cli.command_line("train.py", argv))

    return command(FineTuneCompressed, body, argv, "train.py", PACKAGE)
