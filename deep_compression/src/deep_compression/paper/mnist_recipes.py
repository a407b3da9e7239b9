"""Training and compression of the LeNets on MNIST, as data: the settings `paper`, `validated` and `smallest` of the README.

`paper` has the paper's densities, bits and encoding (tables 2 and 3); `validated` and `smallest` are the extended variant.
Learning rates, epochs and the density of `validated` were selected on held-out training images by `select_settings`
(results/choice-*.json). The densities of `smallest` aim at compression ratios of 80 and 150.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.training.train_options import TrainOptions
from deep_compression.compression_recipe import EQUALLY_SPACED, CompressionRecipe, PruningPlan, QuantizationPlan
from deep_compression.settings import SMALLEST_FILE

HOLDOUT = 1 / 6


@dataclass(frozen=True)
class MnistRecipe:
    """Training and compression of one network. `smallest` and `validated` start from a network pruned as `paper` or `start` says.

    Attributes:
        dense: Training of the dense network.
        paper: Compression as in the paper.
        start: Pruning of the network from which the extended settings start, if it differs from that of `paper`.
        smallest: Compression to the smallest file, with our extensions.
        validated: (density, epochs of the last round, learning rate of retraining) that were selected on held-out images.
    """

    dense: TrainOptions
    paper: CompressionRecipe
    smallest: CompressionRecipe
    validated: tuple[float, int, float]
    start: PruningPlan | None = None

    def compression(self, settings: str) -> CompressionRecipe:
        """Return the compression recipe of "paper", "validated" or "smallest"."""
        return validated_recipe(self.smallest, *self.validated) if settings == "validated" else getattr(self, settings)


START = 0.08  # approximate density of the network from which the extended settings start


def validated_recipe(
    smallest: CompressionRecipe, density: float, epochs: int, learning_rate: float
) -> CompressionRecipe:
    """Return `smallest` with another density, in two steps of equal ratio, and other epochs of the last round and learning rate."""
    halfway = round((START * density) ** 0.5, 4)
    plan = PruningPlan("global-density", (halfway, density), last_epochs=epochs)
    training = replace(smallest.pruning_training, learning_rate=learning_rate)
    return replace(smallest, pruning=plan, pruning_training=training)


def _sgd(epochs: int, learning_rate: float, **more: Any) -> TrainOptions:
    return TrainOptions(epochs, 128, learning_rate, 0.9, 5e-4, nesterov=True, augment=False, **more)


CENTROIDS = TrainOptions(epochs=1, batch_size=128, learning_rate=1e-4, weight_decay=0.0, augment=False)
ADAM = replace(CENTROIDS, epochs=2, learning_rate=1e-3, optimizer="adam")  # of the extended variant


def _lenet5_pruning(fc1: float) -> PruningPlan:
    others = {"conv1": (0.8, 0.66), "conv2": (0.35, 0.12), "fc2": (0.5, 0.19)}
    return PruningPlan("density", (0.25, fc1), others, last_epochs=4)


MNIST_RECIPES = {
    "lenet300_100": MnistRecipe(
        _sgd(10, 0.1),
        CompressionRecipe(
            PruningPlan(
                "density", (0.3, 0.14, 0.08), {"fc2": (0.35, 0.18, 0.09), "fc3": (0.7, 0.4, 0.26)}, last_epochs=4
            ),
            _sgd(1, 0.1),
            QuantizationPlan(fc_bits=6),
            CENTROIDS,
        ),
        CompressionRecipe(
            PruningPlan("global-density", (0.065, 0.05), last_epochs=9),
            _sgd(2, 0.1),
            replace(EQUALLY_SPACED, fc_bits=4, bias_bits=4),
            ADAM,
            SMALLEST_FILE,
        ),
        (0.06, 9, 0.1),
    ),
    "lenet5": MnistRecipe(
        _sgd(5, 0.05, warmup_epochs=1),
        CompressionRecipe(
            _lenet5_pruning(0.076),  # "8" in table 3, rounded; with 8.0 %, its layers add up to 36.6x instead of 39x
            _sgd(1, 0.05),
            QuantizationPlan(conv_bits=8, fc_bits=5),
            CENTROIDS,
        ),
        CompressionRecipe(
            PruningPlan("global-density", (0.045, 0.022), last_epochs=4),
            _sgd(1, 0.05),
            replace(EQUALLY_SPACED, conv_bits=4, fc_bits=4, bias_bits=4),
            replace(ADAM, epochs=1, learning_rate=5e-4),
            SMALLEST_FILE,
        ),
        (0.04, 8, 0.05),
        _lenet5_pruning(0.08),
    ),
}


def scaled_epochs(recipe: MnistRecipe, factor: float) -> MnistRecipe:
    """Multiply all numbers of epochs by a factor; the result is at least 1."""

    def scale(epochs: int) -> int:
        return max(1, round(epochs * factor))

    def scale_training(training: TrainOptions) -> TrainOptions:
        return replace(training, epochs=scale(training.epochs))

    def scale_pruning(plan: PruningPlan) -> PruningPlan:
        return replace(plan, last_epochs=None if plan.last_epochs is None else scale(plan.last_epochs))

    def scale_compression(compression: CompressionRecipe) -> CompressionRecipe:
        return replace(
            compression,
            pruning=scale_pruning(compression.pruning),
            pruning_training=scale_training(compression.pruning_training),
            quantization_training=scale_training(compression.quantization_training),
        )

    if factor == 1:
        return recipe
    density, epochs, learning_rate = recipe.validated
    return MnistRecipe(
        scale_training(recipe.dense),
        scale_compression(recipe.paper),
        scale_compression(recipe.smallest),
        (density, scale(epochs), learning_rate),
        recipe.start and scale_pruning(recipe.start),
    )
