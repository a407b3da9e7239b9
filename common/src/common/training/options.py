"""The recipe of a training run, and its command-line options."""

import argparse
from dataclasses import dataclass, fields
from typing import Any

from common.cli import positive_int
from common.errors import UserError

SCHEDULES = ("constant", "step", "multi-step", "cosine", "linear")
OPTIMIZERS = ("sgd", "adam")
GRAPHS = ("off", "auto")
RUNNING = ("evaluate_every", "keep_every", "deterministic", "graph")  # how, not what is trained


@dataclass(frozen=True)
class TrainOptions:
    """Epochs and milestones count epochs; learning rates are per step; batch_size is that of all processes together.

    The last four change no result: the test set is evaluated after every ``evaluate_every``-th epoch and after the last; the
    state is kept at most once in ``keep_every`` seconds (None: after every epoch on a CPU, else 60) and when work stops;
    ``deterministic`` makes an interrupted run on CUDA end bit-identical; ``graph`` (off, auto) replays the step as a CUDA graph.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    optimizer: str = "sgd"
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    step_size: int = 30
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    augment: bool = True
    amp: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    evaluate_every: int = 1
    keep_every: float | None = None
    deterministic: bool = False
    graph: str = "off"

    def identity(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in RUNNING}

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 0,
            "batch_size": self.batch_size >= 1,
            "learning_rate": 0 <= self.learning_rate < float("inf"),
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": 0 <= self.weight_decay < float("inf"),
            "optimizer": self.optimizer in OPTIMIZERS,
            "schedule": self.schedule in SCHEDULES,
            "step_size": self.step_size >= 1,
            "warmup_epochs": self.warmup_epochs >= 0,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "evaluate_every": self.evaluate_every >= 1,
            "keep_every": self.keep_every is None or 0 <= self.keep_every < float("inf"),
            "graph": self.graph in GRAPHS,
        }
        for name, good in checks.items():
            if not good:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range")


def add_training_options(parser: argparse.ArgumentParser, defaults: TrainOptions | None = None) -> None:
    """--epochs, --batch-size, --learning-rate, ... with these defaults; read them with :func:`training_options`."""
    d = defaults or TrainOptions()
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=d.epochs, help="number of epochs")
    group.add_argument(
        "--batch-size", type=positive_int, default=d.batch_size, help="pictures per step, all processes together"
    )
    group.add_argument("--learning-rate", type=float, default=d.learning_rate, help="initial learning rate")
    group.add_argument("--momentum", type=float, default=d.momentum, help="momentum of SGD")
    group.add_argument("--weight-decay", type=float, default=d.weight_decay, help="weight decay")
    group.add_argument("--nesterov", action="store_true", default=d.nesterov, help="Nesterov momentum")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default=d.optimizer, help="optimizer")
    group.add_argument("--schedule", choices=SCHEDULES, default=d.schedule, help="course of the learning rate")
    group.add_argument("--milestones", type=int, nargs="+", default=list(d.milestones), help="epochs of multi-step")
    group.add_argument("--step-size", type=positive_int, default=d.step_size, help="epochs between drops of step")
    group.add_argument("--gamma", type=float, default=d.gamma, help="factor of a drop")
    group.add_argument("--warmup-epochs", type=float, default=d.warmup_epochs, help="epochs of linear warm-up")
    group.add_argument("--label-smoothing", type=float, default=d.label_smoothing, help="label smoothing")
    group.add_argument("--sync-batch-norm", action="store_true", help="batch norm over all processes (CUDA)")
    add_running_options(parser)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """--evaluate-every, --keep-every, --deterministic, --graph: how a training runs; they change no result."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--evaluate-every", type=positive_int, default=1, metavar="N",
        help="evaluate the test set after every N-th epoch, for the log; after the last one always",
    )  # fmt: skip
    group.add_argument(
        "--keep-every", type=float, default=None, metavar="SECONDS",
        help="write the state for resuming at most this often; after every epoch on a CPU, else every 60 seconds",
    )  # fmt: skip
    group.add_argument("--deterministic", action="store_true", help="on CUDA: resume bit-identical, more slowly")
    group.add_argument("--graph", choices=GRAPHS, default="off", help="on CUDA: replay the step as a CUDA graph")


def running_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_running_options`, for :class:`TrainOptions`."""
    return {name: getattr(args, name) for name in RUNNING if hasattr(args, name)}


def training_options(args: argparse.Namespace, **overrides: Any) -> TrainOptions:
    """TrainOptions from parsed options; names that the parser did not have keep the dataclass's defaults."""
    given = {f.name: getattr(args, f.name) for f in fields(TrainOptions) if hasattr(args, f.name)}
    given.update(overrides)
    if "milestones" in given:
        given["milestones"] = tuple(given["milestones"])
    return TrainOptions(**given)
