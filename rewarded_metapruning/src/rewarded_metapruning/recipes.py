"""The paper's settings for its three networks, and ours for the others: training of the PruningNet, search, final training."""

from dataclasses import dataclass, replace

from common.errors import UserError
from common.training.options import TrainOptions

SMOOTHING = 0.1


@dataclass(frozen=True)
class Recipe:
    """meta: how the PruningNet is trained; final: how a chosen network is.

    base_accuracy   A0 of the reward, in percent
    base_macs       F0 of the reward, in millions by the paper's rule; None: the unpruned network's
    macs_min, macs_max    the search's window in millions by the paper's rule; with no ``macs_max``, ``target`` of the MACs
    calibration     batches, and pictures in each, that norms are calibrated with
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
class SearchSettings:
    """Sizes of the search: candidates a generation, of them at most ``mutants`` and ``crossovers``; the ``parents`` best breed.

    mutation: probability that a mutant's gene changes. Defaults are the paper's.
    """

    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    mutation: float = 0.1

    def __post_init__(self) -> None:
        if self.population < 1 or self.parents < 1 or self.mutants < 0 or self.crossovers < 0:
            raise UserError("population and parents must be at least 1, mutants and crossovers at least 0")
        if self.mutants + self.crossovers > self.population:
            raise UserError(
                f"{self.mutants} mutants and {self.crossovers} crossovers are more than a population of {self.population}"
            )
        if self.crossovers and self.parents < 2:
            raise UserError("a crossover needs at least two parents")
        if not 0 < self.mutation <= 1:
            raise UserError(f"a mutation probability of {self.mutation} makes no sense; give one in (0, 1]")


def _options(epochs: int, batch_size: int, learning_rate: float, schedule: str, weight_decay: float) -> TrainOptions:
    return TrainOptions(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        milestones=quarters(epochs) if schedule == "multi-step" else (),
        weight_decay=weight_decay,
        label_smoothing=SMOOTHING,
    )


def quarters(epochs: int) -> tuple[int, ...]:
    """The epochs at which the paper divides ResNet-50's learning rate by ten."""
    return (epochs // 4, epochs // 2, 3 * epochs // 4)


RECIPES: dict[str, Recipe] = {
    "resnet50": Recipe(
        _options(32, 256, 0.1, "multi-step", 1e-4),
        _options(320, 512, 0.2, "multi-step", 1e-4),
        base_accuracy=70.6,
        base_macs=4100,
        macs_min=1950,
        macs_max=2050,
        calibration=(100, 1000),
    ),
    "mobilenetv1": Recipe(
        _options(64, 512, 0.25, "linear", 4e-5),
        _options(320, 2048, 0.5, "linear", 4e-5),
        base_accuracy=69.76,
        macs_max=330,
        calibration=(100, 1000),
    ),
    "mobilenetv2": Recipe(
        _options(64, 512, 0.25, "linear", 0.0),
        _options(400, 1024, 0.5, "linear", 4e-5),
        base_accuracy=70.6,
        base_macs=4100,
        macs_max=330,
        calibration=(100, 1000),
    ),
}
SMALL = Recipe(_options(20, 64, 0.1, "linear", 1e-4), _options(20, 64, 0.1, "linear", 1e-4))


def recipe_of(arch: str) -> Recipe:
    """A network's recipe; that of small networks for those that the paper does not have."""
    return RECIPES.get(arch, SMALL)


def with_epochs(options: TrainOptions, epochs: int) -> TrainOptions:
    """The same recipe over another number of epochs, its milestones moved along."""
    moved = quarters(epochs) if options.schedule == "multi-step" else options.milestones
    return replace(options, epochs=epochs, milestones=moved)
