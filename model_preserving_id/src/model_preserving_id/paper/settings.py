"""Options of the README's experiments and figures, without importing torch."""

from pathlib import Path

from common.cli import BETWEEN, CLASS_NUMBER, IMAGES, SEED, TARGET_MACS, Range, fraction, positive_int
from common.options import DataOptions, HardwareOptions, NetworkOptions
from common.settings import REQUIRED, option, section, settings
from model_preserving_id.settings import RESIDUAL_MODES, SCORES

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
EXPERIMENT_IMAGES = 1000  # calibration images
WIDE_IMAGES = 10_000
RATIOS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
RATIO_LABELS = {
    "id": "ID with T, widths by Frobenius norms †",
    "id-weights": "the same, re-solved weights †",
    "pca": "PCA",
    "lrank": "LRank",
    "alds": "ALDS",
    "l1": "largest L1 norm",
    "id+pca": "PCA after ID (extended †) to 50 % of the MACs",
    "id+lrank": "LRank after ID (extended †) to 50 % of the MACs",
}


@settings
class WideLayer:
    """Measure error and accuracy at several widths of a hidden layer."""

    checkpoint: str = option(REQUIRED, "trained network with one hidden layer, such as fc4096")
    data: DataOptions = section(DataOptions, dataset="fashion-mnist")
    run: HardwareOptions = section(HardwareOptions)
    seed: int = option(2, "random seed", type=SEED)
    prune_batch_size: int | None = option(
        None, "number of calibration images; 10000, or all if there are fewer, if not given", type=IMAGES
    )
    widths: list[int] | None = option(None, "numbers of units to keep; 30 widths if not given", type=positive_int)
    out: str = option("runs/wide", "output folder", free=True)


@settings
class MissingClass:
    """Prune iteratively with calibration images that lack one class, and measure the accuracy of every class."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    seed: int = option(4, "random seed", type=SEED)
    without_class: int = option(0, "class that is missing from the calibration images", type=CLASS_NUMBER)
    prune_batch_size: int | None = option(
        None,
        "number of calibration images before the class is removed; 1000, or all if there are fewer, if not given",
        type=IMAGES,
    )
    target_macs: float = option(0.3, "fraction of the MACs to keep", type=TARGET_MACS)
    k: float = option(0.9, "fraction of channels kept by a step", type=BETWEEN)
    score: str = option("sigma", "criterion of a step, as in main.py; sigma in the original notebook", choices=SCORES)
    every: float = option(0.05, "fraction of the MACs between two measurements", type=fraction)
    residual: str = option("keep", "treatment of residual streams, as in main.py", choices=RESIDUAL_MODES)
    out: str = option("runs/missing-class", "output folder", free=True)


@settings
class ParameterRatios:
    """Compare ID with PCA, LRank, ALDS and filters selected by L1 norm, at equal numbers of parameters."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    seed: int = option(2, "random seed", type=SEED)
    ratios: list[float] = option(list(RATIOS), "fractions of the parameters to keep", type=fraction)
    methods: list[str] = option(list(RATIO_LABELS), "methods to run", choices=tuple(RATIO_LABELS))
    prune_batch_size: int | None = option(
        None, "number of calibration images; 1000, or all if there are fewer, if not given", type=IMAGES
    )
    residual: str = option("keep", "treatment of residual streams, as in main.py", choices=RESIDUAL_MODES)
    out: str = option("runs/ratios", "output folder", free=True)


@settings
class PruneConv3d:
    """Prune a network of three-dimensional convolutions."""

    run: HardwareOptions = section(HardwareOptions)
    seed: int = option(3, "random seed", type=SEED)
    lba: str | None = option(None, "folder of ATOM3D's LBA files; generated data if not given", metavar="FOLDER")
    grid: int = option(17, "number of voxels per edge", type=Range(int, 17, 257))
    widths: list[int] = option([16, 32, 64, 128], "channels of the four convolutions", type=positive_int, nargs=4)
    hidden: int = option(128, "number of units of the hidden layer", type=positive_int)
    epochs: int = option(12, "number of epochs", type=Range(int, 1, 100_000))
    k: float = option(0.9, "fraction of channels kept by a step", type=BETWEEN)
    target_macs: float = option(0.2, "fraction of the MACs to keep", type=TARGET_MACS)
    out: str = option("runs/conv3d", "output folder", free=True)


@settings
class Diagram:
    """Draw the README's figure of the method."""

    out: str = option(str(HOME / "docs"), "output folder")
