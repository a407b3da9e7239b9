"""The options of every command of this package, and the commands main.py and train.py: nothing here imports torch."""

import argparse
from collections.abc import Sequence

from common import cli
from common.cli import fraction, nonnegative_int, positive_int
from common.errors import UserError
from common.options import DataOptions, NetworkOptions, RepeatOptions, RunOptions, train_options
from common.settings import REQUIRED, command, option, section, settings
from common.training.options import SCHEDULES, TrainOptions

PACKAGE = "model_preserving_id"

METHODS = ("iditer", "budget", "frac", "eps")
SCORES = ("pivot", "frobenius", "measured")
STREAMS = ("exact", "conv", "off")
COMPENSATIONS = ("none", "t", "weights")
INPUTS = 1000  # calibration inputs that layers are solved with by default
CHECKPOINT = "checkpoint.pth.tar"


def below_one(text: str) -> float:
    """Argparse type: a number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


@settings
class Pruning:
    """Pruning."""

    method: str = option(
        "iditer",
        "iditer: layer by layer down to --target-macs; budget: the same in one shot; frac: every layer keeps --k; eps: by accuracy",
        "--method",
        "--k-args",
        choices=METHODS,
    )
    k: float = option(0.95, "fraction of channels kept: by a step of iditer, or in every layer by frac", type=fraction)
    eps: float | None = option(None, "largest |r_k+1,k+1| / |r_11| of a layer, for --method eps", type=below_one)
    target_macs: float = option(0.5, "fraction of the MACs to keep, met within [0.98 F, F]", type=fraction, metavar="F")
    prune_batch_size: int | None = option(
        None, "training images to prune with; 5000, or all if there are fewer", type=positive_int
    )
    score: str | None = option(
        None,
        "criterion of a step; pivot (the paper's) for iditer, measured for budget if not given",
        choices=SCORES,
    )
    refresh: float = option(
        0.02, "iditer measures again after this fraction of the MACs; 0: after each step", type=below_one
    )
    streams: str = option(
        "off",
        "residual streams: not pruned (off), or those read by an option-A shortcut, too, as far as exact, or by a conv",
        choices=STREAMS,
    )
    skip: list[str] = option([], "layers that are not pruned", metavar="LAYER")
    round_to: int = option(1, "widths are multiples of this, such as 8", type=positive_int)
    compensation: str = option(
        "weights",
        "none is the paper; otherwise compensate for what earlier pruning lost, by T or by the consumers' weights",
        choices=COMPENSATIONS,
    )
    solve_batch_size: int = option(INPUTS, "number of the calibration images for --compensation", type=positive_int)
    refresh_bn: bool = option(False, "recalibrate batch-norm statistics (not in the paper)")
    without_class: int | None = option(None, "prune without any image of this class")
    forward_blocksize: int | None = option(None, "images that go through the network at once", type=positive_int)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method {self.method}: expected one of {', '.join(METHODS)}")
        if self.method == "eps" and self.eps is None:
            raise UserError("--method eps needs --eps, such as 0.05")
        if self.eps is not None and self.method != "eps":
            raise UserError(f"--eps belongs to --method eps, not to {self.method}")

    @property
    def label(self) -> str:
        """Name of a run folder: method and target."""
        target = {"iditer": self.target_macs, "budget": self.target_macs, "frac": self.k, "eps": self.eps}
        return f"{self.method}-{target[self.method]:g}"


@settings
class Prune:
    """Prune a trained network with the interpolative decomposition."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions, seed=2)
    pruning: Pruning = section(Pruning)
    log_interval: int = option(
        0, "iditer: evaluate and save after every N steps", type=nonnegative_int, metavar="N", free=True
    )
    no_latency: bool = option(False, "do not measure latency", free=True)
    out: str | None = option(None, "run folder; runs/DATASET/ARCH-METHOD-TARGET if not given", free=True)


@settings
class Additional:
    """Additional options."""

    dataset: str | None = option(None, "the data set; the checkpoint's own, else imagenet, if not given")
    dataset_dir: str | None = option(None, "folder of the data set; digits needs none")
    normalize: str | None = option(None, "mean and deviation other than the checkpoint's")
    original: str | None = option(None, "the network before compression: agreement, and --distill", metavar="FILE")
    distill: float = option(0.0, "weight of the original's outputs in the loss", metavar="ALPHA")
    temperature: float = option(1.0, "softens both outputs for --distill")
    schedule: str = option("constant", "course of the learning rate; the original's is constant", choices=SCHEDULES)
    amp: bool = option(False, "automatic mixed precision (bfloat16)")

    def __post_init__(self) -> None:
        if not self.distill >= 0 or not self.temperature > 0:
            raise UserError("--distill must not be negative, --temperature must be above zero")
        if self.distill and not self.original:
            raise UserError("--distill needs --original FILE, the network before compression")


@settings
class FineTune:
    """Fine-tune a compressed network."""

    pretrained: str = option(
        REQUIRED, "the compressed network: modelIDiter_final.pt, .tp or model.safetensors", metavar="FILE"
    )
    arch: str = option("vgg16", "architecture of the original network", "-a", "--arch")
    workers: int = option(
        4, "processes that read images which do not fit in memory", "-j", "--workers", type=nonnegative_int, free=True
    )
    epochs: int = option(90, "number of epochs", type=nonnegative_int)
    start_epoch: int = option(0, "epochs that count as done", type=nonnegative_int)
    batch_size: int = option(256, "images per step, all processes together", "-b", "--batch-size", type=positive_int)
    lr: float = option(0.1, "learning rate", "--lr", "--learning-rate")
    momentum: float = option(0.9, "momentum of SGD")
    weight_decay: float = option(1e-4, "weight decay", "--wd", "--weight-decay")
    print_freq: int = option(
        10, "accepted; a line is printed per epoch", "-p", "--print-freq", type=positive_int, free=True
    )
    resume: str = option("", f"a {CHECKPOINT} to resume from", metavar="FILE", free=True)
    evaluate: bool = option(False, "evaluate before training, too", "-e", "--evaluate", "--evalute", free=True)
    log_dir: str = option("runs/fine-tune", "run folder", "--log_dir", "--log-dir", free=True)
    tensorboard_dir: str | None = option(
        None, "folder for TensorBoard", "--tensorboard_dir", "--tensorboard-dir", free=True
    )
    world_size: int = option(-1, "number of machines", free=True)
    rank: int = option(-1, "which of them this is", free=True)
    dist_url: str = option("tcp://127.0.0.1:23456", "where the processes meet", free=True)
    dist_backend: str = option("nccl", "nccl; gloo is used where there is no CUDA", free=True)
    gpu: int | None = option(None, "which CUDA device to use", free=True)
    multiprocessing_distributed: bool = option(False, "one process per CUDA device", free=True)
    prune_batch_size: int | None = option(None, "accepted; calibration images are training images here")
    repeat: RepeatOptions = section(RepeatOptions)
    run: RunOptions = section(RunOptions)
    more: Additional = section(Additional)

    def __post_init__(self) -> None:
        self.recipe()

    def recipe(self) -> TrainOptions:
        """The training that these options describe. Raises UserError for a value out of range."""
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

    def body(given: Prune) -> None:
        from model_preserving_id.command import prune

        prune(given, cli.command_line("python main.py", argv))

    return command(Prune, body, argv, "main.py", PACKAGE)


def train_main(argv: Sequence[str] | None = None) -> int:
    """Run ``python train.py``; returns an exit status."""

    def body(given: FineTune) -> None:
        from model_preserving_id.finetune import finetune

        finetune(given, cli.command_line("train.py", argv))

    return command(FineTune, body, argv, "train.py", PACKAGE)
