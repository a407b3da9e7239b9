"""One training loop for all packages."""

from common.training.loop import Hooks, cross_entropy, fit, make_optimizer
from common.training.options import TrainOptions, add_training_options, training_options
from common.training.schedule import learning_rate

__all__ = [
    "Hooks",
    "TrainOptions",
    "add_training_options",
    "cross_entropy",
    "fit",
    "learning_rate",
    "make_optimizer",
    "training_options",
]
