"""Other published values, from the README and the search logs of the authors' repository.

They are marked "published" wherever they are shown.
"""

# Other methods in the README's tables, in its order: (method, top-1 error in percent, "FLOPs" in millions).
OTHERS: dict[str, tuple[tuple[str, float, float], ...]] = {
    "resnet50": (
        ("GAL-0.5", 28.05, 2341),
        ("SSS", 28.18, 2341),
        ("HRank", 25.02, 2311),
        ("random pruning", 24.87, 2013),
        ("AutoPruner", 25.24, 2005),
        ("Adapt-DCP", 24.85, 1955),
        ("FPGM", 25.17, 1911),
        ("DCP", 25.05, 1828),
        ("ThiNet", 27.97, 1815),
        ("MetaPruning", 24.60, 2005),
    ),
    "mobilenetv1": (("0.75 MobileNet-224", 31.60, 325), ("FTWT (r = 1.0)", 30.34, 335)),
    "mobilenetv2": (
        ("0.75 MobileNetV2", 30.20, 220),
        ("random pruning", 29.10, 223),
        ("AMC", 29.20, 220),
        ("MetaPruning", 28.00, 227),
        ("Adapt-DCP", 28.55, 216),
    ),
}

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
