"""Hyperparameters of a training run. The command-line options are in :mod:`common.options`."""

from dataclasses import dataclass, fields
from typing import Any

from common.errors import UserError

SCHEDULES = ("constant", "step", "multi-step", "cosine", "linear")
OPTIMIZERS = ("sgd", "adam")
GRAPHS = ("off", "auto")
RUNTIME = ("evaluate_every", "keep_every", "deterministic", "graph")  # do not affect the trained network


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
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range; see -h")
