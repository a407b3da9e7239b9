"""The training loop of all packages."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from common.training.distill import distillation_loss
    from common.training.loop import fit
    from common.training.schedule import learning_rate
    from common.training.state import best_test_top1
    from common.training.step import Hooks, cross_entropy, make_optimizer, mean_loss
    from common.training.train_options import TrainOptions

__all__ = [
    "Hooks",
    "TrainOptions",
    "best_test_top1",
    "cross_entropy",
    "distillation_loss",
    "fit",
    "learning_rate",
    "make_optimizer",
    "mean_loss",
]

__getattr__ = lazy_names(
    __name__,
    {
        "distillation_loss": "distill",
        "fit": "loop",
        "TrainOptions": "train_options",
        "learning_rate": "schedule",
        "best_test_top1": "state",
        **dict.fromkeys(("Hooks", "cross_entropy", "make_optimizer", "mean_loss"), "step"),
    },
)
