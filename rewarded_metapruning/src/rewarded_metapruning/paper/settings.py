"""Options of the README's comparison and diagrams. Imports no torch."""

from pathlib import Path

from common.cli import LEARNING_RATE, SEED, TARGET_MACS, Range, positive_int
from common.options import HardwareOptions
from common.settings import option, section, settings
from common.training.train_options import OPTIMIZERS
from rewarded_metapruning.recipes import SMALL
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import SCALE, AmpOptions, StageDataOptions, resolve_scale_range

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout


@settings
class SearchVsRandom:
    """Compare searched with random encoding vectors of the same target MACs."""

    arch: str = option("resnet-small", "name of a registered network")
    data: StageDataOptions = section(StageDataOptions, dataset="cifar10", train_images=10_000)
    run: HardwareOptions = section(HardwareOptions)
    precision: AmpOptions = section(AmpOptions)
    force: bool = option(False, "recompute existing results, overwriting other runs in their folders")
    seeds: list[int] = option([0, 1, 2, 3, 4], "random seeds; one result per seed", type=SEED)
    target_macs: float = option(0.5, "fraction of the unpruned MACs to keep", type=TARGET_MACS)
    meta_epochs: int = option(12, "number of epochs of the PruningNet", type=Range(int, 1, 100_000))
    epochs: int = option(10, "number of epochs of each network", type=Range(int, 1, 100_000))
    generations: int = option(8, "number of generations of the search", type=positive_int)
    scale_range: list[int] = option(
        list(ALL_SCALES), "smallest and largest entry of sampled vectors", nargs=2, metavar=("LOW", "HIGH"), type=SCALE
    )
    meta_optimizer: str = option("sgd", "optimizer of the PruningNet", choices=OPTIMIZERS)
    meta_learning_rate: float = option(
        SMALL.meta.learning_rate, "initial learning rate of the PruningNet", type=LEARNING_RATE
    )
    random: int = option(2, "number of random vectors per seed", type=Range(int, 1, 10_000))
    out: str = option("runs/small-scale", "folder of the run folders", free=True)
    results: str = option(str(HOME / "results"), "folder of the result files", free=True)

    def __post_init__(self) -> None:
        resolve_scale_range(self.scale_range)


@settings
class CompareVariants:
    """Compress a network with the paper's method and with the extended one, to the same target."""

    arch: str = option("resnet20", "name of a registered network")
    data: StageDataOptions = section(StageDataOptions)
    run: HardwareOptions = section(HardwareOptions)
    precision: AmpOptions = section(AmpOptions)
    force: bool = option(False, "recompute existing results, overwriting other runs in their folders")
    seeds: list[int] = option([0, 1, 2], "random seeds; one result per seed", type=SEED)
    target_macs: float = option(0.5, "fraction of the unpruned MACs to keep", type=TARGET_MACS)
    out: str = option("runs/variants", "folder of the run folders", free=True)
    results: str = option(str(HOME / "results"), "folder of the result files", free=True)


@settings
class DrawDiagrams:
    """Draw the README's diagrams of the method."""

    out: str = option(str(HOME / "docs"), "folder of the diagrams")
