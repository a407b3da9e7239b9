"""Options of the experiments and figures behind the README: nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import fraction, positive_int
from common.options import DataOptions, RepeatOptions, RunOptions
from common.settings import REQUIRED, option, section, settings

if TYPE_CHECKING:
    from deep_compression.plan import Recipe

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
LENETS = ("lenet300_100", "lenet5")
ROWS = ("paper", "lossless", "best")  # of the table of MNIST


@settings
class Mnist:
    """The paper's LeNet rows on MNIST."""

    arch: list[str] = option([*LENETS], "networks", choices=LENETS)
    seeds: int = option(5, "number of seeds, from --seed on", type=positive_int)
    rows: list[str] = option([*ROWS], "rows of the table", choices=ROWS)
    out: str = option("runs/mnist", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per row and seed; none if not given")
    holdout: bool = option(False, "measure on a sixth of the training images, for choices")
    choice: str | None = option(
        None, "folder of choice-ARCH.json: settings of the row lossless other than the built-in ones"
    )
    epochs_factor: float = option(1.0, "multiplies all numbers of epochs, for a quick look")
    data: DataOptions = section(DataOptions, dataset="mnist")
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class Choose:
    """Choose settings on held-out images."""

    arch: list[str] = option([*LENETS], "networks", choices=LENETS)
    no_lossless: bool = option(False, "leave the row lossless, most of the time, out")
    out: str = option("runs/choice", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per network; none if not given")
    data: DataOptions = section(DataOptions, dataset="mnist")
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)


@settings
class Cifar10:
    """Accuracy against file size on CIFAR-10, from the networks that `common.fetch` gets."""

    arch: str = option("resnet20", "network")
    weights: str = option(REQUIRED, "its trained weights, or a checkpoint")
    densities: list[float] = option([0.5, 0.3], "fractions of the weights that remain", type=fraction)
    bits: list[int] = option([5], "bits per weight", type=positive_int)
    epochs: int = option(10, "epochs after pruning")
    learning_rate: float = option(0.02, "at their start; falls to zero as a cosine")
    share_epochs: int = option(1, "epochs of training the centroids")
    gradual: bool = option(False, "each density starts from the network of the one before, not from the dense one")
    out: str = option("runs/cifar10", "folder of the run folders")
    results: str | None = option(None, "folder for one JSON file per network; none if not given")
    amp: bool = option(False, "automatic mixed precision (bfloat16)")
    data: DataOptions = section(DataOptions, dataset="cifar10")
    run: RunOptions = section(RunOptions)
    repeat: RepeatOptions = section(RepeatOptions)

    def __post_init__(self) -> None:
        for bits in self.bits:
            self.recipe(self.densities[0], bits)

    def recipe(self, density: float, bits: int) -> Recipe:
        """One round to a global density, retraining, equally spaced centroids, a short training of those."""
        from common.training.options import TrainOptions
        from deep_compression.plan import PrunePlan, Recipe, SharePlan

        return Recipe(
            PrunePlan("global-density", (density,)),
            TrainOptions(self.epochs, 128, self.learning_rate, 0.9, 5e-4, nesterov=True, amp=self.amp),
            SharePlan(conv_bits=bits, fc_bits=bits, lloyd_steps=0, rounding="bfloat16"),
            TrainOptions(self.share_epochs, 128, 1e-4, 0.9, 0.0, optimizer="adam", amp=self.amp),
        )


@settings
class Figures:
    """The plots of the README, from result files."""

    out: str = option(str(HOME / "results"), "folder of the plots")
    docs: str = option(str(HOME / "docs"), "folder of the plot of weights")
    weights: str | None = option(None, "count the weights of this run again", metavar="FOLDER")
