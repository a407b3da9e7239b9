"""Options of the experiments and figures behind the README: nothing here imports torch."""

from pathlib import Path

from common.cli import fraction, nonnegative_int, positive_int
from common.errors import UserError
from common.options import DataOptions, NetworkOptions, RunOptions
from common.settings import REQUIRED, option, section, settings
from model_preserving_id.settings import STREAMS

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
RATIOS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
RATIO_LABELS = {
    "id": "ID",
    "id-weights": "ID, weights solved anew",
    "pca": "PCA",
    "lrank": "LRank",
    "l1": "largest L1 norm",
    "id+pca": "PCA on ID at half the MACs",
    "id+lrank": "LRank on ID at half the MACs",
}


@settings
class Wide:
    """Error and accuracy against the width of a hidden layer."""

    checkpoint: str = option(REQUIRED, "a trained network with one hidden layer (fc4096)")
    data: DataOptions = section(DataOptions, dataset="mnist")
    run: RunOptions = section(RunOptions)
    seed: int = option(2, "seed of everything that is drawn", type=nonnegative_int)
    prune_batch_size: int = option(10_000, "training images to prune with", type=positive_int)
    widths: list[int] | None = option(None, "k; a grid of 30 if not given", type=positive_int)
    out: str = option("runs/wide", "folder of the files", free=True)


@settings
class MissingClass:
    """Prune without a class."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)
    seed: int = option(4, "seed of everything that is drawn", type=nonnegative_int)
    without_class: int = option(0, "the class that no calibration image shows")
    prune_batch_size: int = option(1000, "calibration images before its images are removed", type=positive_int)
    target_macs: float = option(0.3, "fraction of the MACs to stop at", type=fraction)
    k: float = option(0.9, "fraction of a layer's channels that a step keeps", type=fraction)
    every: float = option(0.05, "measure after each such fraction of the MACs", type=fraction)
    streams: str = option("off", "residual streams with an option-A shortcut", choices=STREAMS)
    out: str = option("runs/missing-class", "folder of the files", free=True)


@settings
class Ratios:
    """Compare ID with PCA, LRank and norms."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)
    seed: int = option(2, "seed of everything that is drawn", type=nonnegative_int)
    ratios: list[float] = option(list(RATIOS), "fractions of the parameters to keep", type=fraction)
    methods: list[str] = option(list(RATIO_LABELS), "which rows", choices=tuple(RATIO_LABELS))
    prune_batch_size: int = option(1000, "calibration images", type=positive_int)
    streams: str = option("off", "residual streams with an option-A shortcut", choices=STREAMS)
    out: str = option("runs/ratios", "folder of the files", free=True)


@settings
class Volume:
    """Prune a three-dimensional network."""

    run: RunOptions = section(RunOptions)
    seed: int = option(3, "seed of everything that is drawn", type=nonnegative_int)
    lba: str | None = option(None, "ATOM3D's LBA files; a generated set if not given", metavar="FOLDER")
    grid: int = option(17, "voxels along an edge, 17 or more", type=positive_int)
    widths: list[int] = option([16, 32, 64, 128], "of the convolutions", type=positive_int, nargs=4)
    hidden: int = option(128, "units of the hidden layer", type=positive_int)
    epochs: int = option(12, "epochs of training", type=positive_int)
    k: float = option(0.9, "fraction of a layer's channels that a step keeps", type=fraction)
    target_macs: float = option(0.2, "fraction of the MACs to stop at", type=fraction)
    out: str = option("runs/volume", "folder of the files", free=True)

    def __post_init__(self) -> None:
        if self.grid < 17:
            raise UserError(f"--grid {self.grid}: two halvings and four convolutions leave nothing of less than 17")


@settings
class Diagram:
    """Draw the README's figure of the idea, made of a real decomposition."""

    out: str = option(str(HOME / "docs"), "folder of the figure")
