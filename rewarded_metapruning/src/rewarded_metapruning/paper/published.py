"""Published results: the three tables in the README of the authors' repository, and the search logs in it.

The README names no table numbers; each table stands under the name of a network, and its rows are numbered here from 1. Rows of
other methods are quoted by that README, with a link to the source. They are marked "published" wherever they are shown.
"""

from dataclasses import dataclass

REPOSITORY = "original repository"


@dataclass(frozen=True)
class PublishedResult:
    """One row of a table in the authors' README.

    Attributes:
        method: Method as printed.
        error: Top-1 error, in percent.
        macs: "FLOPs" as printed, in millions.
        link: Source that the README links to; empty for the authors' own row.
    """

    method: str
    error: float
    macs: int
    link: str = ""

    def source(self, table: str, row: int) -> str:
        """Return the source, table and row of this result, as a table cell."""
        return f"{f'{self.link}, quoted by ' if self.link else ''}{REPOSITORY}, table {table}, row {row}"


OWN, BASELINE = "Rewarded meta-pruning", "Baseline"
SURVEY, KERAS = "arXiv 2205.05676", "tensorflow/tensorflow, mobilenet.py"
PUBLISHED_RESULTS: dict[str, tuple[PublishedResult, ...]] = {
    "ResNet-50": (
        PublishedResult(BASELINE, 23.40, 4110, SURVEY),
        PublishedResult("GAL-0.5", 28.05, 2341, "ShaohuiLin/GAL"),
        PublishedResult("SSS", 28.18, 2341, "huangzehao/sparse-structure-selection"),
        PublishedResult("HRank", 25.02, 2311, "lmbxmu/HRank"),
        PublishedResult("Random Pruning", 24.87, 2013, SURVEY),
        PublishedResult("AutoPruner", 25.24, 2005, "Roll920/AutoPruner"),
        PublishedResult("Adapt-DCP", 24.85, 1955, "SCUT-AILab/DCP"),
        PublishedResult("FPGM", 25.17, 1911, "he-y/filter-pruning-geometric-median"),
        PublishedResult("DCP", 25.05, 1828, "SCUT-AILab/DCP"),
        PublishedResult("ThiNet", 27.97, 1815, "Roll920/ThiNet"),
        PublishedResult("MetaPruning", 24.60, 2005, "liuzechun/MetaPruning"),
        PublishedResult(OWN, 24.24, 1950),
    ),
    "MobileNetV1": (
        PublishedResult(BASELINE, 29.40, 569, KERAS),
        PublishedResult("0.75 MobileNet-224", 31.60, 325, KERAS),
        PublishedResult("FTWT (r=1.0)", 30.34, 335, "selkerdawy/FTWT"),
        PublishedResult(OWN, 29.60, 295),
    ),
    "MobileNetV2": (
        PublishedResult(BASELINE, 28.12, 314, SURVEY),
        PublishedResult("0.75 MobileNetV2", 30.20, 220, SURVEY),
        PublishedResult("Random Pruning", 29.10, 223, "selkerdawy/FTWT"),
        PublishedResult("AMC", 29.20, 220, "mit-han-lab/amc"),
        PublishedResult("MetaPruning", 28.00, 227, "liuzechun/MetaPruning"),
        PublishedResult("Adapt-DCP", 28.55, 216, "SCUT-AILab/DCP"),
        PublishedResult(OWN, 28.51, 199),
    ),
}
TITLES = {"resnet50": "ResNet-50", "mobilenetv1": "MobileNetV1", "mobilenetv2": "MobileNetV2"}


def published_macs(arch: str, method: str) -> int:
    """Return the published "FLOPs" of a method on a network, in millions."""
    return next(result.macs for result in PUBLISHED_RESULTS[TITLES[arch]] if result.method == method)


# Best candidates of the logged searches, in the logged order: (MACs in millions, top-1 in percent by the PruningNet, reward).
LOGGED = {
    "resnet50": (
        (1956.75, 55.29, 15.7378),
        (1958.35, 55.27, 15.6671),
        (1950.24, 55.22, 15.6528),
        (1952.35, 55.23, 15.6504),
        (1958.93, 55.26, 15.6404),
        (1953.06, 55.22, 15.6264),
        (1951.39, 55.21, 15.6160),
        (1957.47, 55.24, 15.6114),
        (1951.08, 55.19, 15.5951),
        (1951.11, 55.19, 15.5866),
    ),
    "mobilenetv2": (
        (203.50, 54.26, 56.0626),
        (204.09, 54.22, 55.7490),
        (206.49, 54.25, 55.7357),
        (199.83, 54.16, 55.7321),
        (203.32, 54.20, 55.6963),
    ),
}
