"""The 31 widths of a layer: 10, 13, ... 97, 100 % of its base width (MetaPruning's scale table)."""

SCALES = 31
FULL = SCALES - 1
ALL_SCALES = (0, FULL)


def width(base: int, index: int) -> int:
    """Return the channels of a layer of ``base`` channels at scale index 0 to 30: rounded down, at least one."""
    return max(1, base * (10 + 3 * index) // 100)


def scale(index: int) -> float:
    """Return the ratio of width to base width: 0.10 for index 0, 1.00 for index 30."""
    return (10 + 3 * index) / 100
