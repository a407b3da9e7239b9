"""Hyperparameters of a training run. The command-line options are in :mod:`common.options`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from common.cli import BELOW_ONE, EPOCHS, LEARNING_RATE, SECONDS, WEIGHT, Range, positive_int
from common.errors import UserError

SCHEDULES = ("constant", "step", "multi-step", "cosine", "linear")
OPTIMIZERS = ("sgd", "adam")
GRAPHS = ("off", "auto")
RUNTIME = ("evaluate_every", "keep_every", "deterministic", "graph")  # do not affect the trained network
RANGES = {  # of the numbers below, and of the options that set them
    "epochs": EPOCHS,
    "batch_size": positive_int,
    "learning_rate": LEARNING_RATE,
    "momentum": BELOW_ONE,
    "weight_decay": WEIGHT,
    "step_size": positive_int,
    "gamma": Range(float, 0, 10, above=True),
    "warmup_epochs": Range(float, 0, 100_000),
    "label_smoothing": BELOW_ONE,
    "evaluate_every": positive_int,
    "keep_every": SECONDS,
}


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of training. The last four fields do not affect the result.

    Attributes:
        batch_size: Images per step, over all processes.
        milestones: Epochs at which ``multi-step`` multiplies the learning rate by ``gamma``.
        step_size: Epochs between two such drops of ``step``.
        evaluate_every: The test set is evaluated after every N-th epoch and after the last one.
        keep_every: Minimum seconds between two saves of the state for resuming; None: 0 on a CPU, else 60. The state is also
            saved when the run stops.
        deterministic: On CUDA, an interrupted run resumes bit-identical.
        graph: ``off`` or ``auto``: replay the step as a CUDA graph.
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
        """Return the fields on which the result depends."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in RUNTIME}

    def __post_init__(self) -> None:
        for name, limits in RANGES.items():
            value = getattr(self, name)
            if value is not None:
                limits.check(f"--{name.replace('_', '-')}", value)
        for name, known in {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "graph": GRAPHS}.items():
            if getattr(self, name) not in known:
                raise UserError(f"--{name} {getattr(self, name)}: unknown; give one of {', '.join(known)}")
        if list(self.milestones) != sorted(self.milestones):
            given = " ".join(map(str, self.milestones))
            raise UserError(
                f"milestones {given}: not in increasing order; give the epochs in the order of the training"
            )


def check_milestones(name: str, milestones: Sequence[int]) -> None:
    """Raise UserError if epochs given by an option do not increase."""
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise UserError(f"{name} {' '.join(map(str, milestones))}: must increase; give the epochs in their order")
