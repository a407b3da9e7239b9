"""Options of the comparison and the figures behind the README: nothing here imports torch."""

from pathlib import Path

from common.cli import fraction, positive_int
from common.errors import UserError
from common.options import RunOptions
from common.settings import option, section, settings
from common.training.options import OPTIMIZERS
from rewarded_metapruning.recipes import SMALL
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import DataOptions, PrecisionOptions, scale_limits

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout


@settings
class SmallScale:
    """Searched against random vectors."""

    arch: str = option("resnet-small", "the network")
    data: DataOptions = section(DataOptions, dataset="cifar10", pictures=10_000)
    run: RunOptions = section(RunOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    force: bool = option(False, "start again where a result or another run is found")
    seeds: list[int] = option([0, 1, 2, 3, 4], "seeds of everything that is drawn: one result each")
    target_macs: float = option(0.5, "fraction of the unpruned MACs", type=fraction)
    meta_epochs: int = option(12, "epochs of the PruningNet", type=positive_int)
    epochs: int = option(10, "epochs of each network", type=positive_int)
    generations: int = option(8, "generations of the search", type=positive_int)
    scales: list[int] = option(list(ALL_SCALES), "entries that are sampled", nargs=2, metavar=("LOW", "HIGH"))
    meta_optimizer: str = option("sgd", "that of the PruningNet", choices=OPTIMIZERS)
    meta_learning_rate: float = option(SMALL.meta.learning_rate, "of the PruningNet")
    random: int = option(2, "random vectors per seed")
    out: str = option("runs/small-scale", "folder of the run folders", free=True)
    results: str = option(str(HOME / "results"), "folder of the result files", free=True)

    def __post_init__(self) -> None:
        scale_limits(self.scales)
        if self.random < 1:
            raise UserError(f"--random {self.random}: at least one, else there is nothing to compare with")


@settings
class Diagrams:
    """The README's drawings of the method."""

    out: str = option(str(HOME / "docs"), "folder of the drawings")
