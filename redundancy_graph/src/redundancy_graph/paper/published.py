"""Published results of the authors, typed once: tables are generated from these, and tests check that the numbers add up.

The README of the original code exists in two states. That of June 2024 has the numbers of the paper's abstract, so its tables are
the paper's; the paper's full text was not available. "FLOPs" are those of the library thop: MACs, and a few operations of batch norm
and pooling. The CIFAR-100 row of DenseNet-40 at 0.65 is omitted because it repeats ResNet-110's row, which must be a copying error.
"""

from dataclasses import dataclass

FIRST = "original code, README of March 2023"
LATER = "original code, README of June 2024"
ABSTRACT = "paper, abstract"


@dataclass(frozen=True)
class Published:
    """One row, as printed. Accuracies and reductions in percent; ``top1`` and ``top5`` are None if only drops are printed.

    Attributes:
        source: Document.
        table: Heading of the table in it.
        threshold: Label of the row; None for the dense network, and in a text that does not mention it.
        drop: Top-1 of the dense network minus that of the pruned network, in points.
        flops_drop: FLOPs removed, as counted by thop.
    """

    source: str
    table: str
    arch: str
    dataset: str
    threshold: float | None
    drop: float
    flops_drop: float
    params_drop: float | None
    top1: float | None = None
    top5: float | None = None
    top5_drop: float | None = None
    epochs: int | None = None

    @property
    def row(self) -> str:
        if self.threshold is None:
            return "baseline" if self.top1 is not None else "text"
        return f"{self.threshold:g}"


def _first(table: str, arch: str, dense: float, *rows: tuple[float, float, float, float, float]) -> list[Published]:
    """Return a CIFAR-10 table; rows: (threshold, top-1, drop, FLOPs drop, params drop)."""
    found = [Published(FIRST, table, arch, "cifar10", None, 0, 0, 0, dense)]
    for threshold, top1, drop, flops, params in rows:
        found.append(Published(FIRST, table, arch, "cifar10", threshold, drop, flops, params, top1, epochs=90))
    return found


def _later(table: str, arch: str, dataset: str, *rows: tuple[float, float, float, float]) -> list[Published]:
    """Return a table without accuracies; rows: (threshold, drop, FLOPs drop, params drop)."""
    return [Published(LATER, table, arch, dataset, *row) for row in rows]


PUBLISHED: tuple[Published, ...] = (
    *_first(
        "VGG-16",
        "vgg16",
        93.72,
        (0.8, 93.56, 0.16, 42.16, 77.11),
        (0.75, 93.37, 0.35, 51.24, 83.58),
        (0.7, 92.93, 0.79, 65.52, 88.88),
    ),
    *_first(
        "ResNet-56",
        "resnet56",
        93.45,
        (0.75, 93.18, 0.27, 32.82, 12.85),
        (0.7, 93.07, 0.38, 41.96, 18.93),
        (0.65, 92.52, 0.93, 57.05, 33.60),
    ),
    *_first(
        "ResNet-110",
        "resnet110",
        93.94,
        (0.75, 93.86, 0.08, 35.24, 8.81),
        (0.7, 93.43, 0.51, 45.54, 15.32),
        (0.65, 92.25, 1.69, 62.67, 32.11),
    ),
    *_first(
        "DenseNet-40",
        "densenet40",
        93.87,
        (0.75, 93.92, -0.05, 36.75, 19.80),
        (0.7, 93.78, 0.09, 49.39, 35.72),
        (0.65, 92.76, 1.11, 74.51, 66.41),
    ),
    Published(FIRST, "ResNet-50", "resnet50", "imagenet", None, 0, 0, 0, 76.15, 92.87, 0),
    Published(FIRST, "ResNet-50", "resnet50", "imagenet", 0.7, 1.54, 48.81, 23.71, 74.61, 91.93, 0.94, 65),
    Published(FIRST, "ResNet-50", "resnet50", "imagenet", 0.65, 6.25, 73.12, 49.48, 69.90, 89.21, 3.66, 65),
    *_later(
        "VGG-16",
        "vgg16",
        "cifar10",
        (0.8, -0.14, 42.14, 76.80),
        (0.75, 0.17, 51.23, 83.42),
        (0.7, 0.57, 65.52, 88.77),
    ),
    *_later(
        "ResNet-56",
        "resnet56",
        "cifar10",
        (0.75, 0.09, 32.82, 12.85),
        (0.7, 0.38, 41.96, 18.93),
        (0.65, 0.84, 57.05, 33.60),
    ),
    *_later(
        "ResNet-110",
        "resnet110",
        "cifar10",
        (0.75, 0.02, 35.24, 8.81),
        (0.7, 0.44, 45.54, 15.32),
        (0.65, 1.67, 62.67, 32.11),
    ),
    *_later(
        "DenseNet-40",
        "densenet40",
        "cifar10",
        (0.75, -0.10, 36.75, 19.80),
        (0.7, 0.01, 49.39, 35.72),
        (0.65, 0.94, 74.51, 66.41),
    ),
    Published(ABSTRACT, "DenseNet-40", "densenet40", "cifar10", None, 0.01, 49.39, None, epochs=70),
    Published(LATER, "ResNet-50", "resnet50", "imagenet", 0.7, 1.47, 48.81, 23.71, top5_drop=0.83),
    Published(LATER, "ResNet-50", "resnet50", "imagenet", 0.65, 5.38, 73.12, 49.48, top5_drop=3.13),
    Published(ABSTRACT, "ResNet-50", "resnet50", "imagenet", None, 1.47, 48.81, 23.71, top5_drop=0.83),
    *_later(
        "VGG-16-BN",
        "vgg16",
        "cifar100",
        (0.8, -0.17, 23.68, 50.01),
        (0.75, 0.09, 39.55, 65.94),
        (0.7, 1.74, 62.46, 79.90),
    ),
    *_later(
        "ResNet-56",
        "resnet56",
        "cifar100",
        (0.75, 0.22, 29.24, 7.77),
        (0.7, 0.71, 47.02, 17.50),
        (0.65, 2.10, 60.32, 33.01),
    ),
    *_later(
        "ResNet-110",
        "resnet110",
        "cifar100",
        (0.75, 0.23, 38.93, 12.00),
        (0.7, 0.61, 52.42, 20.72),
        (0.65, 1.95, 67.08, 46.78),
    ),
    *_later("DenseNet-40", "densenet40", "cifar100", (0.75, 0.12, 23.51, 6.83), (0.7, 0.52, 41.87, 18.22)),
    *_later("VGG-16-BN", "vgg16_bn", "cub200", (0.85, 2.29, 51.95, 2.25)),
    *_later("VGG-16-BN (second row, presumably VGG-19-BN)", "vgg19_bn", "cub200", (0.85, 1.85, 52.66, 2.91)),
)


def find_published(arch: str, dataset: str, threshold: float | None, source: str = FIRST) -> Published | None:
    """Return the row of a network and a threshold, or None."""
    rows = (
        row
        for row in PUBLISHED
        if (row.source, row.arch, row.dataset, row.threshold) == (source, arch, dataset, threshold)
    )
    return next(rows, None)
