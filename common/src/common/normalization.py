"""Means and standard deviations per channel, of pixels scaled to 0..1."""

import math
from collections.abc import Sequence

from common.errors import UserError

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

SMALLEST_STD = 1e-6  # smaller ones, of pixels from 0 to 1, give infinite values

IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Names of --normalize, and DATASET.
NORMALIZATIONS: dict[str, MeanStd] = {
    "imagenet": IMAGENET,
    "cifar10": (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),  # used by the authors of redundancy graphs, and widely
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}

# Measured on all training pixels of each data set, rounded to four digits. (The 0.2023 .. above are means of the standard
# deviations of single images; the standard deviations of all pixels of CIFAR-10 are the 0.2470 .. here.) The values of
# fashion-mnist and cifar100 are those commonly published.
MEASURED: dict[str, MeanStd] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ((0.3052,) * 3, (0.3235,) * 3),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "imagenet": IMAGENET,
    "mnist": ((0.1307,), (0.3081,)),
}


DATASET = "dataset"  # the data set's own, measured on its training images
NORMALIZATION_NAMES = (*NORMALIZATIONS, DATASET)


def parse_normalization(text: str) -> MeanStd | None:
    """Return the values of a name, or of numbers such as 0.49,0.48,0.45:0.2,0.2,0.2; None for DATASET. Raises UserError."""
    if text == DATASET:
        return None
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    if ":" not in text:
        raise UserError(
            f"--normalize {text[:100]}: unknown normalization; known: {', '.join(NORMALIZATION_NAMES)}, or numbers as "
            "MEAN,...:STD,..."
        )
    parts = text.split(":")
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
        return check_mean_std(mean, std, max(len(mean), len(std)))
    except ValueError:
        raise UserError(
            f"--normalize {text[:100]}: not of the form MEAN,...:STD,...; give one number or one per channel, e.g. "
            "0.49,0.48,0.45:0.2,0.2,0.2"
        ) from None
    except UserError as error:
        raise UserError(f"--normalize {text[:100]}: {error}") from None


def normalization(text: str) -> str:
    """Return the text if it describes a normalization (argparse type). Raises UserError."""
    parse_normalization(text)
    return text


def in_channels(values: MeanStd, channels: int) -> MeanStd:
    """Return a normalization for images converted to this number of channels: for one, the averages over the colors."""
    if channels > 1 or len(values[0]) == 1:
        return values
    mean, std = (round(sum(part) / len(part), 4) for part in values)
    return (mean,), (std,)


def check_mean_std(mean: Sequence[float], std: Sequence[float], channels: int) -> MeanStd:
    """Return mean and standard deviation as tuples of `channels` floats; a single value applies to all channels.

    Raises UserError for values that are not numbers or not finite, a wrong number of values, and a standard deviation that is
    not positive.
    """
    mean, std = (_numbers(part) for part in (mean, std))
    mean, std = (part * channels if len(part) == 1 else part for part in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"normalization: {len(mean)} means and {len(std)} standard deviations for images with {channels} "
            f"channel{'s' * (channels != 1)}; give one value or one per channel"
        )
    if not all(value >= SMALLEST_STD for value in std):
        raise UserError(f"normalization: all standard deviations must be positive, got {std}")
    return mean, std


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"normalization: {str(values)[:100]} is not a list of numbers; give one per channel") from error
    if isinstance(values, str) or not all(math.isfinite(value) for value in found):
        raise UserError(f"normalization: {str(values)[:100]} is not a list of finite numbers; give one per channel")
    return found
