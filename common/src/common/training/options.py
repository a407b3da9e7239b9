"""The recipe of a training run. Its command-line options are in :mod:`common.options`."""

from dataclasses import dataclass, fields
from typing import Any

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
