"""The numbers of the authors' README, as printed there (2023-03 state): tables are made from these, never retyped."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """Percent. ``top5`` only for ImageNet; drops are of MACs (printed as FLOPs) and parameters."""

    threshold: float
    top1: float
    macs_drop: float
    params_drop: float
    top5: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    title: str
    dataset: str
    top1: float
    rows: tuple[PublishedRow, ...]
    top5: float | None = None


PUBLISHED: dict[str, PublishedTable] = {
    "vgg16": PublishedTable(
        "VGG-16",
        "cifar10",
        93.72,
        (
            PublishedRow(0.8, 93.56, 42.16, 77.11),
            PublishedRow(0.75, 93.37, 51.24, 83.58),
            PublishedRow(0.7, 92.93, 65.52, 88.88),
        ),
    ),
    "resnet56": PublishedTable(
        "ResNet-56",
        "cifar10",
        93.45,
        (
            PublishedRow(0.75, 93.18, 32.82, 12.85),
            PublishedRow(0.7, 93.07, 41.96, 18.93),
            PublishedRow(0.65, 92.52, 57.05, 33.60),
        ),
    ),
    "resnet110": PublishedTable(
        "ResNet-110",
        "cifar10",
        93.94,
        (
            PublishedRow(0.75, 93.86, 35.24, 8.81),
            PublishedRow(0.7, 93.43, 45.54, 15.32),
            PublishedRow(0.65, 92.25, 62.67, 32.11),
        ),
    ),
    "densenet40": PublishedTable(
        "DenseNet-40",
        "cifar10",
        93.87,
        (
            PublishedRow(0.75, 93.92, 36.75, 19.80),
            PublishedRow(0.7, 93.78, 49.39, 35.72),
            PublishedRow(0.65, 92.76, 74.51, 66.41),
        ),
    ),
    "resnet50": PublishedTable(
        "ResNet-50",
        "imagenet",
        76.15,
        (
            PublishedRow(0.7, 74.61, 48.81, 23.71, 91.93),
            PublishedRow(0.65, 69.90, 73.12, 49.48, 89.21),
        ),
        92.87,
    ),
}
