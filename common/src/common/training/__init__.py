"""One training loop for all packages."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from common.training.distill import distillation
    from common.training.loop import fit
    from common.training.options import TrainOptions
    from common.training.schedule import learning_rate
    from common.training.state import best_test_top1
    from common.training.step import Hooks, cross_entropy, make_optimizer

__all__ = [
    "Hooks",
    "TrainOptions",
    "best_test_top1",
    "cross_entropy",
    "distillation",
    "fit",
    "learning_rate",
    "make_optimizer",
]

__getattr__ = lazy_names(
    __name__,
    {
        "distillation": "distill",
        "fit": "loop",
        "TrainOptions": "options",
        "learning_rate": "schedule",
        "best_test_top1": "state",
        **dict.fromkeys(("Hooks", "cross_entropy", "make_optimizer"), "step"),
    },
)
