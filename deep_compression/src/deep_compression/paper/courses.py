"""How the LeNets are trained and compressed on MNIST, as data: the rows `paper`, `best` and `lossless` of the README's table.

Learning rates, epochs and the density of `lossless` are those that `choice` found on training pictures held out
(results/choice-*.json); the densities of `paper` are the paper's, those of `best` are set by the rate aimed at, 80 and 150.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.training.options import TrainOptions
from deep_compression.plan import PrunePlan, Recipe, SharePlan

HOLDOUT = 1 / 6


@dataclass(frozen=True)
class Course:
    """How one network is trained and compressed. The other rows start from the network that `paper` has pruned.

    lossless: (density, epochs of the last round, learning rate of retraining), the smallest that lost nothing on the
    pictures held out.
    """

    dense: TrainOptions
    paper: Recipe
    best: Recipe
    lossless: tuple[float, int, float]

    def recipe(self, row: str) -> Recipe:
        """The recipe of a row: paper, best or lossless."""
        return lossless(self.best, *self.lossless) if row == "lossless" else getattr(self, row)


START = 0.08  # about what `paper` leaves


def lossless(best: Recipe, density: float, epochs: int, rate: float) -> Recipe:
    """`best` with another density, reached in two equal steps, other epochs after the second, and another learning rate."""
    halfway = round((START * density) ** 0.5, 4)
    plan = PrunePlan("global-density", (halfway, density), last_epochs=epochs)
    return replace(best, prune=plan, prune_training=replace(best.prune_training, learning_rate=rate))


def _sgd(epochs: int, rate: float, **more: Any) -> TrainOptions:
    return TrainOptions(epochs, 128, rate, 0.9, 5e-4, nesterov=True, augment=False, **more)


CENTROIDS = TrainOptions(
    epochs=2, batch_size=128, learning_rate=1e-3, weight_decay=0.0, optimizer="adam", augment=False
)

COURSES = {
    "lenet300_100": Course(
        _sgd(10, 0.1),
        Recipe(
            PrunePlan(
                "density", (0.3, 0.14, 0.08), {"fc2": (0.35, 0.18, 0.09), "fc3": (0.7, 0.4, 0.26)}, last_epochs=4
            ),
            _sgd(1, 0.1),
            SharePlan(fc_bits=5, lloyd_steps=0),
            CENTROIDS,
        ),
        Recipe(
            PrunePlan("global-density", (0.065, 0.05), last_epochs=9),
            _sgd(2, 0.1),
            SharePlan(fc_bits=4, bias_bits=4, lloyd_steps=0, rounding="bfloat16"),
            CENTROIDS,
        ),
        (0.06, 9, 0.1),
    ),
    "lenet5": Course(
        _sgd(5, 0.05, warmup_epochs=1),
        Recipe(
            PrunePlan(
                "density",
                (0.25, 0.08),
                {"conv1": (0.8, 0.66), "conv2": (0.35, 0.12), "fc2": (0.5, 0.19)},
                last_epochs=4,
            ),
            _sgd(1, 0.05),
            SharePlan(conv_bits=8, fc_bits=5, lloyd_steps=0, rounding="bfloat16"),
            replace(CENTROIDS, epochs=1, learning_rate=5e-4),
        ),
        Recipe(
            PrunePlan("global-density", (0.045, 0.022), last_epochs=4),
            _sgd(1, 0.05),
            SharePlan(conv_bits=4, fc_bits=4, bias_bits=4, lloyd_steps=0, rounding="bfloat16"),
            replace(CENTROIDS, epochs=1, learning_rate=5e-4),
        ),
        (0.04, 8, 0.05),
    ),
}


def shortened(course: Course, factor: float) -> Course:
    """All numbers of epochs times the factor, at least 1."""

    def short(training: TrainOptions) -> TrainOptions:
        return replace(training, epochs=max(1, round(training.epochs * factor)))

    def shorter(recipe: Recipe) -> Recipe:
        last = recipe.prune.last_epochs
        prune = replace(recipe.prune, last_epochs=None if last is None else max(1, round(last * factor)))
        return replace(
            recipe,
            prune=prune,
            prune_training=short(recipe.prune_training),
            share_training=short(recipe.share_training),
        )

    return (
        course
        if factor == 1
        else Course(
            short(course.dense),
            shorter(course.paper),
            shorter(course.best),
            (course.lossless[0], max(1, round(course.lossless[1] * factor)), course.lossless[2]),
        )
    )
