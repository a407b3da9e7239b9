"""The numbers of the paper (as the published comparison tables of later papers give them) and of the seed's README."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One pruned network. ``macs`` and ``params`` in millions; drops in percent, as printed; ``top5`` for ImageNet only."""

    penalty: float
    top1: float
    macs: float
    macs_drop: float
    params: float
    params_drop: float
    top5: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A network's rows from one source: "paper" or "seed"."""

    title: str
    arch: str
    dataset: str
    source: str
    top1: float
    macs: float
    params: float
    rows: tuple[PublishedRow, ...]
    top5: float | None = None


PUBLISHED: tuple[PublishedTable, ...] = (
    PublishedTable(
        "VGG-16",
        "vgg16",
        "cifar10",
        "paper",
        93.96,
        313.73,
        14.98,
        (
            PublishedRow(500, 94.02, 203.08, 35.3, 5.54, 63.0),
            PublishedRow(200, 93.56, 110.51, 64.8, 1.66, 89.0),
            PublishedRow(100, 92.44, 51.20, 81.5, 0.51, 96.6),
            PublishedRow(50, 91.68, 36.85, 88.3, 0.26, 98.3),
        ),
    ),
    PublishedTable(
        "VGG-16",
        "vgg16",
        "cifar10",
        "seed",
        91.94,
        314.29,
        14.99,
        (PublishedRow(50, 91.48, 242.05, 22.98, 11.91, 20.55), PublishedRow(4, 89.41, 43.41, 86.18, 2.01, 86.55)),
    ),
    PublishedTable(
        "ResNet-56",
        "resnet56",
        "cifar10",
        "paper",
        93.26,
        125.49,
        0.85,
        (
            PublishedRow(450, 93.34, 92.48, 26.3, 0.64, 24.2),
            PublishedRow(200, 93.26, 62.93, 49.9, 0.43, 49.0),
            PublishedRow(55, 90.85, 23.22, 81.5, 0.13, 85.3),
        ),
    ),
    PublishedTable(
        "ResNet-110",
        "resnet110",
        "cifar10",
        "paper",
        93.50,
        256.04,
        1.73,
        (
            PublishedRow(500, 93.88, 163.30, 35.0, 1.11, 36.0),
            PublishedRow(300, 93.50, 96.66, 61.8, 0.61, 64.8),
            PublishedRow(175, 92.71, 58.37, 77.0, 0.35, 80.0),
        ),
    ),
    PublishedTable(
        "DenseNet-40",
        "densenet40",
        "cifar10",
        "paper",
        94.81,
        282.92,
        1.04,
        (
            PublishedRow(175, 94.85, 228.96, 19.1, 0.83, 20.7),
            PublishedRow(115, 94.59, 171.36, 39.4, 0.56, 46.0),
            PublishedRow(70, 94.04, 128.13, 54.7, 0.37, 65.0),
        ),
    ),
    PublishedTable(
        "GoogLeNet",
        "googlenet",
        "cifar10",
        "paper",
        95.05,
        1520,
        6.15,
        (
            PublishedRow(500, 95.20, 1220, 19.8, 4.73, 23.0),
            PublishedRow(200, 94.51, 330, 78.5, 1.17, 80.9),
            PublishedRow(175, 94.33, 230, 84.7, 0.86, 86.1),
        ),
    ),
    PublishedTable(
        "ResNet-50",
        "resnet50",
        "imagenet",
        "paper",
        76.15,
        4090,
        25.50,
        (
            PublishedRow(8, 76.31, 3540, 13.4, 22.69, 11.0, 93.02),
            PublishedRow(6, 74.58, 2360, 42.3, 14.10, 44.7, 92.18),
            PublishedRow(5, 72.06, 1600, 60.9, 8.87, 65.2, 90.82),
            PublishedRow(4, 69.71, 1190, 70.9, 6.12, 76.0, 89.37),
        ),
        92.87,
    ),
)
