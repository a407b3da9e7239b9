"""Published results (arXiv 1510.00149, tables 1 to 7, and the original code's README), for comparison in the README's tables."""

from typing import Any

# network: (reference error (%), compressed error (%), KB before, KB after, compression ratio)
TABLE_1 = {
    "lenet300_100": (1.64, 1.58, 1070, 27, 40),
    "lenet5": (0.80, 0.74, 1720, 44, 39),
    "alexnet": (42.78, 42.78, 240_000, 6_900, 35),
    "vgg16_imagenet": (31.50, 31.17, 552_000, 11_300, 49),
}
TOP5 = {"alexnet": (19.73, 19.70), "vgg16_imagenet": (11.32, 10.91)}  # reference error (%), compressed error (%)
# The original code's README (VGG-19 with batch norm on CIFAR-10): top-1 (%) by its columns; k: number of shared values per layer.
ORIGINAL_VGG19 = {
    "Original": 92.22,
    "Pruned 25": 92.18,
    "Shared k=4": 90.93,
    "Shared k=9": 91.86,
    "Shared k=13": 92.23,
    "Shared k=35": None,
}
TITLES = {
    "lenet300_100": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "alexnet": "AlexNet",
    "vgg16_imagenet": "VGG-16",
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
}

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
TABLE_4 = {  # AlexNet
    "conv1": ("35K", 84, 8, 6.3, 4, 1.2, 32.6, 20.53),
    "conv2": ("307K", 38, 8, 5.5, 4, 2.3, 14.5, 9.43),
    "conv3": ("885K", 35, 8, 5.1, 4, 2.6, 13.1, 8.44),
    "conv4": ("663K", 37, 8, 5.2, 4, 2.5, 14.1, 9.11),
    "conv5": ("442K", 37, 8, 5.6, 4, 2.5, 14.0, 9.43),
    "fc6": ("38M", 9, 5, 3.9, 4, 3.2, 3.0, 2.39),
    "fc7": ("17M", 9, 5, 3.6, 4, 3.7, 3.0, 2.46),
    "fc8": ("4M", 25, 5, 4, 4, 3.2, 7.3, 5.85),
    "total": ("61M", 11, 5.4, 4, 4, 3.2, 3.7, 2.88),
}
TABLE_5 = {  # VGG-16
    "conv1_1": ("2K", 58, 8, 6.8, 5, 1.7, 40.0, 29.97),
    "conv1_2": ("37K", 22, 8, 6.5, 5, 2.6, 9.8, 6.99),
    "conv2_1": ("74K", 34, 8, 5.6, 5, 2.4, 14.3, 8.91),
    "conv2_2": ("148K", 36, 8, 5.9, 5, 2.3, 14.7, 9.31),
    "conv3_1": ("295K", 53, 8, 4.8, 5, 1.8, 21.7, 11.15),
    "conv3_2": ("590K", 24, 8, 4.6, 5, 2.9, 9.7, 5.67),
    "conv3_3": ("590K", 42, 8, 4.6, 5, 2.2, 17.0, 8.96),
    "conv4_1": ("1M", 32, 8, 4.6, 5, 2.6, 13.1, 7.29),
    "conv4_2": ("2M", 27, 8, 4.2, 5, 2.9, 10.9, 5.93),
    "conv4_3": ("2M", 34, 8, 4.4, 5, 2.5, 14.0, 7.47),
    "conv5_1": ("2M", 35, 8, 4.7, 5, 2.5, 14.3, 8.00),
    "conv5_2": ("2M", 29, 8, 4.6, 5, 2.7, 11.7, 6.52),
    "conv5_3": ("2M", 36, 8, 4.6, 5, 2.3, 14.8, 7.79),
    "fc6": ("103M", 4, 5, 3.6, 5, 3.5, 1.6, 1.10),
    "fc7": ("17M", 4, 5, 4, 5, 4.3, 1.5, 1.25),
    "fc8": ("4M", 23, 5, 4, 5, 3.4, 7.1, 5.24),
    "total": ("138M", 7.5, 6.4, 4.1, 5, 3.1, 3.2, 2.05),
}
LAYERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "lenet300_100": TABLE_2,
    "lenet5": TABLE_3,
    "alexnet": TABLE_4,
    "vgg16_imagenet": TABLE_5,
}
TABLES_OF_PAPER = {"lenet300_100": 2, "lenet5": 3, "alexnet": 4, "vgg16_imagenet": 5}
# Table 6: AlexNet with different bits of convolutions / linear layers: top-1 error, top-5 error, their increases (%).
TABLE_6 = {
    "32 / 32": (42.78, 19.73, None, None),
    "8 / 5": (42.78, 19.70, 0.00, -0.03),
    "8 / 4": (42.79, 19.73, 0.01, 0.00),
    "4 / 2": (44.77, 22.33, 1.99, 2.60),
}
# Table 7: other methods on AlexNet: top-1 error, top-5 error (%), parameters (MB), compression ratio.
TABLE_7 = {
    "Baseline Caffemodel": (42.78, 19.73, 240, 1),
    "Fastfood-32-AD": (41.93, None, 131, 2),
    "Fastfood-16-AD": (42.90, None, 64, 3.7),
    "Collins & Kohli": (44.40, None, 61, 4),
    "SVD": (44.02, 20.56, 47.6, 5),
    "Pruning": (42.77, 19.67, 27, 9),
    "Pruning + quantization": (42.78, 19.70, 8.9, 27),
    "Pruning + quantization + Huffman": (42.78, 19.70, 6.9, 35),
}
