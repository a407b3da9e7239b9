"""Published results of DECORE: the paper's, as later papers quote them, and those of the original repository's README.

The paper's own tables were not available. CORING (Pham, Zniyed, Nguyen: Efficient tensor-based filter pruning) and NORTON (by the
same authors: Enhanced network compression through tensor decompositions and pruning) print its rows in the numbered comparison
tables of their repositories' READMEs; a row is found there by its label, DECORE-<penalty>. NORTON's README
rounds reductions to whole percents; ResNet-110's at a penalty of 300 are those of the paper's abstract. DECORE-50 agrees with the paper's abstract: up to 99 % compression at a loss of 2.28 points.
"""

from common.reporting.published import PublishedRow, PublishedTable

PUBLISHED: tuple[PublishedTable, ...] = (
    PublishedTable(
        "VGG-16",
        "vgg16",
        "cifar10",
        "as quoted by CORING, table 1",
        93.96,
        (
            PublishedRow(500, 94.02, 35.3, 63.0, macs=203.08, params=5.54),
            PublishedRow(200, 93.56, 64.8, 89.0, macs=110.51, params=1.66),
            PublishedRow(100, 92.44, 81.5, 96.6, macs=51.20, params=0.51),
            PublishedRow(50, 91.68, 88.3, 98.3, macs=36.85, params=0.26),
        ),
        macs=313.73,
        params=14.98,
    ),
    PublishedTable(
        "VGG-16",
        "vgg16",
        "cifar10",
        "README of the original repository",
        91.94,
        (PublishedRow(4, 89.41, 86.18, 86.55, macs=43.41, params=2.01),),
        macs=314.29,
        params=14.99,
    ),
    PublishedTable(
        "ResNet-56",
        "resnet56",
        "cifar10",
        "as quoted by CORING, table 2",
        93.26,
        (
            PublishedRow(450, 93.34, 26.3, 24.2, macs=92.48, params=0.64),
            PublishedRow(200, 93.26, 49.9, 49.0, macs=62.93, params=0.43),
            PublishedRow(55, 90.85, 81.5, 85.3, macs=23.22, params=0.13),
        ),
        macs=125.49,
        params=0.85,
    ),
    PublishedTable(
        "ResNet-110",
        "resnet110",
        "cifar10",
        "as quoted by NORTON, table 2",
        93.50,
        (
            PublishedRow(500, 93.88, 35.0, 36.0, macs=163.30, params=1.11),
            PublishedRow(300, 93.50, 61.8, 64.8, macs=96.66, params=0.61),
            PublishedRow(175, 92.71, 77.0, 80.0, macs=58.37, params=0.35),
        ),
        macs=256.04,
        params=1.73,
    ),
    PublishedTable(
        "DenseNet-40",
        "densenet40",
        "cifar10",
        "as quoted by CORING, table 3",
        94.81,
        (
            PublishedRow(175, 94.85, 19.1, 20.7, macs=228.96, params=0.83),
            PublishedRow(115, 94.59, 39.4, 46.0, macs=171.36, params=0.56),
            PublishedRow(70, 94.04, 54.7, 65.0, macs=128.13, params=0.37),
        ),
        macs=282.92,
        params=1.04,
    ),
    PublishedTable(
        "GoogLeNet",
        "googlenet",
        "cifar10",
        "as quoted by CORING, table 4",
        95.05,
        (
            PublishedRow(500, 95.20, 19.8, 23.0, macs=1220, params=4.73),
            PublishedRow(200, 94.51, 78.5, 80.9, macs=330, params=1.17),
            PublishedRow(175, 94.33, 84.7, 86.1, macs=230, params=0.86),
        ),
        macs=1520,
        params=6.15,
    ),
    PublishedTable(
        "ResNet-50",
        "resnet50",
        "imagenet",
        "as quoted by CORING, table 6",
        76.15,
        (
            PublishedRow(8, 76.31, 13.4, 11.0, 93.02, macs=3540, params=22.69),
            PublishedRow(6, 74.58, 42.3, 44.7, 92.18, macs=2360, params=14.10),
            PublishedRow(5, 72.06, 60.9, 65.2, 90.82, macs=1600, params=8.87),
            PublishedRow(4, 69.71, 70.9, 76.0, 89.37, macs=1190, params=6.12),
        ),
        top5=92.87,
        macs=4090,
        params=25.50,
    ),
)
