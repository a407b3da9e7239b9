"""Results printed in the README of the original code (state of 2023-03): tables are generated from these."""

from common.reporting.published import PublishedRow, PublishedTable

PUBLISHED: dict[str, PublishedTable] = {
    "vgg16": PublishedTable(
        "VGG-16",
        "vgg16",
        "cifar10",
        "original code",
        93.72,
        (
            PublishedRow(0.8, 93.56, 42.16, 77.11),
            PublishedRow(0.75, 93.37, 51.24, 83.58),
            PublishedRow(0.7, 92.93, 65.52, 88.88),
        ),
    ),
    "resnet56": PublishedTable(
        "ResNet-56",
        "resnet56",
        "cifar10",
        "original code",
        93.45,
        (
            PublishedRow(0.75, 93.18, 32.82, 12.85),
            PublishedRow(0.7, 93.07, 41.96, 18.93),
            PublishedRow(0.65, 92.52, 57.05, 33.60),
        ),
    ),
    "resnet110": PublishedTable(
        "ResNet-110",
        "resnet110",
        "cifar10",
        "original code",
        93.94,
        (
            PublishedRow(0.75, 93.86, 35.24, 8.81),
            PublishedRow(0.7, 93.43, 45.54, 15.32),
            PublishedRow(0.65, 92.25, 62.67, 32.11),
        ),
    ),
    "densenet40": PublishedTable(
        "DenseNet-40",
        "densenet40",
        "cifar10",
        "original code",
        93.87,
        (
            PublishedRow(0.75, 93.92, 36.75, 19.80),
            PublishedRow(0.7, 93.78, 49.39, 35.72),
            PublishedRow(0.65, 92.76, 74.51, 66.41),
        ),
    ),
    "resnet50": PublishedTable(
        "ResNet-50",
        "resnet50",
        "imagenet",
        "original code",
        76.15,
        (
            PublishedRow(0.7, 74.61, 48.81, 23.71, 91.93),
            PublishedRow(0.65, 69.90, 73.12, 49.48, 89.21),
        ),
        top5=92.87,
    ),
}
