"""Means and deviations per channel, of pixels scaled to 0..1."""

from collections.abc import Sequence

from common.errors import UserError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# What --normalize takes by name. "dataset" means the data set's own, measured on its training pictures.
NORMALIZATIONS: dict[str, Statistics] = {
    "imagenet": IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # the redundancy-graph authors', and many others'
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}

# Measured over all training pixels of each data set, rounded to four digits. (The 0.2023 .. above is a mean of the
# pictures' own deviations; the deviation over all pixels of CIFAR-10 is the 0.2470 .. here.) Those of fashion-mnist and
# cifar100 are the commonly published ones.
MEASURED: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ((0.3052,) * 3, (0.3235,) * 3),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "imagenet": IMAGENET,
    "mnist": ((0.1307,), (0.3081,)),
}


def checked_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> Statistics:
    """Mean and deviation as tuples of `channels` floats; one value serves all channels. Raises UserError."""
    mean, std = (tuple(float(value) for value in part) for part in (mean, std))
    mean, std = (part * channels if len(part) == 1 else part for part in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"a normalisation with {len(mean)} means and {len(std)} deviations does not fit pictures with {channels} "
            f"channel{'s' * (channels != 1)}; give one value or one per channel"
        )
    if not all(value > 0 for value in std):
        raise UserError(f"a normalisation's deviations must be above zero, not {std}")
    return mean, std
