"""Options of the experiments and plots of the README. This module does not import torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import EPOCHS, LEARNING_RATE, Range, fraction
from common.options import DataOptions, HardwareOptions, RepeatOptions
from common.settings import REQUIRED, option, section, settings
from deep_compression.settings import BITS, SMALLEST_FILE

if TYPE_CHECKING:
    from deep_compression.compression_recipe import CompressionRecipe

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
LENETS = ("lenet300_100", "lenet5")
SETTINGS = ("paper", "validated", "smallest")  # of the LeNets on MNIST


@settings
class Mnist:
    """Compress the LeNets on MNIST with the paper's settings and with two smaller ones."""

    arch: list[str] = option([*LENETS], "networks", choices=LENETS)
    seeds: int = option(5, "number of random seeds, starting at --seed", type=Range(int, 1, 10_000))
    settings: list[str] = option([*SETTINGS], "compression settings", choices=SETTINGS)
    out: str = option("runs/mnist", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per setting and seed")
    holdout: bool = option(
        False, "hold out a sixth of the training images and measure on them instead of the test images"
    )
    settings_dir: str | None = option(
        None, "folder of choice-ARCH.json, which replaces the built-in settings validated"
    )
    epochs_factor: float = option(1.0, "factor of all numbers of epochs, for quick trials", type=Range(float, 0, 1000))
    data: DataOptions = section(DataOptions, dataset="mnist")
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class SelectSettings:
    """Select settings of the LeNets by the error on held-out training images."""

    arch: list[str] = option([*LENETS], "networks", choices=LENETS)
    skip_validated: bool = option(False, "skip the selection of the settings validated, which takes most of the time")
    out: str = option("runs/choice", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per network")
    data: DataOptions = section(DataOptions, dataset="mnist")
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class Cifar10:
    """Measure accuracy against file size on CIFAR-10 for a pretrained network."""

    arch: str = option("resnet20", "network")
    weights: str = option(REQUIRED, "trained weights or checkpoint of the network")
    densities: list[float] = option([0.5, 0.3], "fractions of the weights to keep", type=fraction)
    bits: list[int] = option([5], "bits per weight", type=BITS)
    epochs: int = option(10, "number of epochs after pruning", type=EPOCHS)
    learning_rate: float = option(0.02, "initial learning rate (cosine schedule to zero)", type=LEARNING_RATE)
    quantize_epochs: int = option(1, "number of epochs of centroid training", type=EPOCHS)
    gradual: bool = option(False, "prune from density to density, instead of from the dense network to each density")
    out: str = option("runs/cifar10", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per network")
    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)

    def __post_init__(self) -> None:
        for bits in self.bits:
            self.recipe(self.densities[0], bits)

    def recipe(self, density: float, bits: int) -> CompressionRecipe:
        """Return the recipe: one round to a global density, retraining, equally spaced centroids, short centroid training."""
        from common.training.train_options import TrainOptions
        from deep_compression.compression_recipe import EQUALLY_SPACED, CompressionRecipe, PruningPlan

        return CompressionRecipe(
            PruningPlan("global-density", (density,)),
            TrainOptions(self.epochs, 128, self.learning_rate, 0.9, 5e-4, nesterov=True, amp=self.amp),
            replace(EQUALLY_SPACED, conv_bits=bits, fc_bits=bits),
            TrainOptions(self.quantize_epochs, 128, 1e-4, 0.9, 0.0, optimizer="adam", amp=self.amp),
            SMALLEST_FILE,
        )


@settings
class MakePlots:
    """Draw the README's plots from result files."""

    out: str = option(str(HOME / "results"), "folder of the plots")
    docs: str = option(str(HOME / "docs"), "folder of the plot of weights")
    weights: str | None = option(None, "run folder whose weights are counted first", metavar="FOLDER")
