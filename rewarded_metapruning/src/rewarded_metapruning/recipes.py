"""Settings of PruningNet training, search and final training: the paper's for its three networks, our own for the others."""

from dataclasses import dataclass, replace

from common.cli import Range
from common.errors import UserError
from common.training.train_options import TrainOptions

SMOOTHING = 0.1
GENERATION = Range(int, 1, 100_000)  # networks of a generation


@dataclass(frozen=True)
class MetaPruningRecipe:
    """Settings of all three stages for one network.

    Attributes:
        meta: Training of the PruningNet.
        final: Training of the chosen network.
        base_accuracy: A0 of the reward, in percent.
        base_macs: F0 of the reward, in millions by the paper's rule. None: those of the unpruned network.
        macs_min: Minimum of the search window, in millions by the paper's rule.
        macs_max: Maximum of the search window. None: search for ``target`` instead.
        target: Fraction of the MACs to keep.
        calibration: Number of batch-norm calibration batches, and images per batch.
    """

    meta: TrainOptions
    final: TrainOptions
    base_accuracy: float = 100.0
    base_macs: float | None = None
    macs_min: float = 0.0
    macs_max: float | None = None
    target: float = 0.5
    calibration: tuple[int, int] = (20, 100)


@dataclass(frozen=True)
class EvolutionSettings:
    """Sizes of a generation, and the mutation probability. The defaults are the paper's.

    Attributes:
        population: Candidates per generation.
        parents: Number of best candidates that mutants and crossovers are made of.
        mutants: Maximum number of mutants per generation.
        crossovers: Maximum number of crossovers per generation.
        mutation: Probability that a gene of a mutant changes.
    """

    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    mutation: float = 0.1

    def __post_init__(self) -> None:
        if self.population < 1 or self.parents < 1 or self.mutants < 0 or self.crossovers < 0:
            raise UserError(
                f"--population {self.population}, --parents {self.parents}, --mutants {self.mutants}, --crossovers"
                f" {self.crossovers}: population and parents must be at least 1, mutants and crossovers at least 0"
            )
        if self.mutants + self.crossovers > self.population:
            raise UserError(
                f"--mutants {self.mutants}, --crossovers {self.crossovers}: their sum exceeds --population {self.population};"
                " reduce one of them"
            )
        if self.crossovers and self.parents < 2:
            raise UserError(
                f"--parents {self.parents}: crossovers require at least 2 parents; use --crossovers 0 or more parents"
            )
        if not 0 < self.mutation <= 1:
            raise UserError(f"--mutation {self.mutation}: the probability must be in (0, 1]")


def _options(epochs: int, batch_size: int, learning_rate: float, schedule: str, weight_decay: float) -> TrainOptions:
    return TrainOptions(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        milestones=quarter_milestones(epochs) if schedule == "multi-step" else (),
        weight_decay=weight_decay,
        label_smoothing=SMOOTHING,
    )


def quarter_milestones(epochs: int) -> tuple[int, ...]:
    """Return the epochs at which the paper divides ResNet-50's learning rate by ten."""
    return (epochs // 4, epochs // 2, 3 * epochs // 4)


RECIPES: dict[str, MetaPruningRecipe] = {
    "resnet50": MetaPruningRecipe(
        _options(32, 256, 0.1, "multi-step", 1e-4),
        _options(320, 512, 0.2, "multi-step", 1e-4),
        base_accuracy=70.6,
        base_macs=4100,
        macs_min=1950,
        macs_max=2050,
        calibration=(100, 1000),
    ),
    "mobilenetv1": MetaPruningRecipe(
        _options(64, 512, 0.25, "linear", 4e-5),
        _options(320, 2048, 0.5, "linear", 4e-5),
        base_accuracy=69.76,
        macs_max=330,
        calibration=(100, 1000),
    ),
    "mobilenetv2": MetaPruningRecipe(
        _options(64, 512, 0.25, "linear", 0.0),
        _options(400, 1024, 0.5, "linear", 4e-5),
        base_accuracy=70.6,
        base_macs=4100,
        macs_max=330,
        calibration=(100, 1000),
    ),
}
SMALL = MetaPruningRecipe(_options(20, 64, 0.1, "linear", 1e-4), _options(20, 64, 0.1, "linear", 1e-4))


def find_recipe(arch: str) -> MetaPruningRecipe:
    """Return a network's recipe; networks that are not in the paper use the recipe for small networks."""
    return RECIPES.get(arch, SMALL)


def with_epochs(options: TrainOptions, epochs: int) -> TrainOptions:
    """Return the same recipe with another number of epochs; multi-step milestones are moved accordingly."""
    moved = quarter_milestones(epochs) if options.schedule == "multi-step" else options.milestones
    return replace(options, epochs=epochs, milestones=moved)
