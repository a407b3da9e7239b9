"""Published results (arXiv 1510.00149, tables 1 to 5), for comparison in the README's tables."""

from typing import Any

# network: (reference error (%), compressed error (%), KB before, KB after, compression ratio)
TABLE_1 = {
    "lenet300_100": (1.64, 1.58, 1070, 27, 40),
    "lenet5": (0.80, 0.74, 1720, 44, 39),
    "AlexNet": (42.78, 42.78, 240_000, 6_900, 35),
    "VGG-16": (31.50, 31.17, 552_000, 11_300, 49),
}
TOP5 = {"AlexNet": (19.73, 19.70), "VGG-16": (11.32, 10.91)}  # reference error (%), compressed error (%)
# The original code's README (VGG-19 with batch norm on CIFAR-10): top-1 (%) by stage; k: number of shared values per layer.
ORIGINAL_VGG19 = {"dense": 92.22, "25 rounds of pruning": 92.18, "k = 4": 90.93, "k = 9": 91.86, "k = 13": 92.23}
TITLES = {"lenet300_100": "LeNet-300-100", "lenet5": "LeNet-5", "resnet20": "ResNet-20", "resnet56": "ResNet-56"}

# layer: (weights, weights% P, weight bits P+Q, P+Q+H, index bits P+Q, P+Q+H, compressed size (%) P+Q, P+Q+H)
TABLE_2 = {  # LeNet-300-100
    "fc1": ("235K", 8, 6, 4.4, 5, 3.7, 3.1, 2.32),
    "fc2": ("30K", 9, 6, 4.4, 5, 4.3, 3.8, 3.04),
    "fc3": ("1K", 26, 6, 4.3, 5, 3.2, 15.7, 12.70),
    "total": ("266K", 8, 6, 5.1, 5, 3.7, 3.1, 2.49),
}
TABLE_3 = {  # LeNet-5
    "conv1": ("0.5K", 66, 8, 7.2, 5, 1.5, 78.5, 67.45),
    "conv2": ("25K", 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
    "fc1": ("400K", 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
    "fc2": ("5K", 19, 5, 5.2, 5, 3.7, 6.9, 6.13),
    "total": ("431K", 8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
}
LAYERS: dict[str, dict[str, tuple[Any, ...]]] = {"lenet300_100": TABLE_2, "lenet5": TABLE_3}
