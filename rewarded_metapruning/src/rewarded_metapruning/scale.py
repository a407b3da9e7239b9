"""The 31 widths that a layer can have: 10, 13, ... 97, 100 % of its base (MetaPruning's scale table)."""

SCALES = 31
FULL = SCALES - 1
ALL_SCALES = (0, FULL)


def width(base: int, index: int) -> int:
    """Channels of a layer of ``base`` channels at scale ``index`` (0 .. 30): the floor in integers, at least one."""
    return max(1, base * (10 + 3 * index) // 100)


def scale(index: int) -> float:
    """The share of the base: 0.10 for index 0, 1.00 for index 30."""
    return (10 + 3 * index) / 100
