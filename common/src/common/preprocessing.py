"""How image files become the inputs of a network: resized, cropped to a square, and normalized.

A network was trained with one preprocessing, and needs it again wherever it is used. What the user's options say comes first, then
what the network's file records, then what the library of the network says, and then the data set's default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import UserError
from common.normalization import IMAGENET, check_mean_std, in_channels

CROP = 224  # pixels: height and width of the images of ImageNet's networks
RESIZE = 256  # pixels: the shorter side in evaluation
SIDE_LIMIT = 16_384  # pixels
INTERPOLATIONS = (
    "nearest",
    "bilinear",
    "bicubic",
    "lanczos",
    "box",
    "hamming",
)  # names of Pillow, torchvision and timm
FITS = ("shorter", "longer", "both")
ALIASED = ("nearest", "bilinear", "bicubic")  # interpolations that exist without antialiasing
MEMORY_IMAGES = 64  # pixels: images of up to this size are not cropped by default


@dataclass(frozen=True)
class Preprocessing:
    """Steps from an image file to an input of a network.

    Attributes:
        resize: Pixels of the side that ``fit`` names, before cropping.
        crop: Height and width of the center that is cropped; missing pixels are black.
        interpolation: One of INTERPOLATIONS.
        antialias: Whether every pixel is averaged over its area when an image shrinks, as Pillow does.
        fit: Side that is resized: "shorter"; "longer", whose image is padded with the mean color; or "both", which ignores the
            aspect ratio. (timm's crop modes "center", "border" and "squash".)
        mean: Per channel, of pixels from 0 to 1.
        std: Standard deviation per channel.
    """

    resize: int = RESIZE
    crop: int = CROP
    interpolation: str = "bilinear"
    antialias: bool = True
    fit: str = "shorter"
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def __post_init__(self) -> None:
        for side in (self.resize, self.crop):
            if type(side) is not int or not 1 <= side <= SIDE_LIMIT:
                raise UserError(f"preprocessing: a size of {str(side)[:50]} pixels; give 1 to {SIDE_LIMIT:,}")
        for value, known in ((self.interpolation, INTERPOLATIONS), (self.fit, FITS)):
            if value not in known:
                raise UserError(f"preprocessing: {str(value)[:50]!r} is not one of {', '.join(known)}")
        if type(self.antialias) is not bool or not (self.antialias or self.interpolation in ALIASED):
            raise UserError(
                f"preprocessing: {self.interpolation} without antialiasing; only {', '.join(ALIASED)} exist"
            )
        mean, std = check_mean_std(self.mean, self.std, max(len(self.mean), len(self.std)))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def normalized(self, mean: Sequence[float], std: Sequence[float], channels: int) -> "Preprocessing":
        """Return the same steps with another normalization; a single value applies to all channels."""
        mean, std = check_mean_std(mean, std, channels)
        return replace(self, mean=mean, std=std)

    def in_channels(self, channels: int) -> "Preprocessing":
        """Return the same steps for images converted to this number of channels."""
        mean, std = in_channels((self.mean, self.std), channels)
        return replace(self, mean=mean, std=std)

    @property
    def geometry(self) -> dict[str, Any]:
        """Everything but the normalization, as it is recorded in a file."""
        names = ("resize", "crop", "interpolation", "antialias", "fit")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        side = {"shorter": "shorter side", "longer": "longer side", "both": "both sides"}[self.fit]
        how = self.interpolation + (", not antialiased" if not self.antialias else "")
        return f"{self.crop} x {self.crop}, cropped after resizing the {side} to {self.resize} ({how})"


DEFAULT = Preprocessing()  # of ImageNet's networks


def from_header(header: Mapping[str, Any] | None, path: object = "the file") -> Preprocessing | None:
    """Return the preprocessing that a checkpoint's header records; None if it records none. Raises UserError for a damaged one."""
    found, normalize = (header or {}).get("preprocessing"), (header or {}).get("normalize")
    if found is None:
        return None
    if not isinstance(found, dict) or not found.keys() <= DEFAULT.geometry.keys():
        raise UserError(f"{path}: its preprocessing is not a table of {', '.join(DEFAULT.geometry)}")
    values: dict[str, Any] = {} if normalize is None else {name: tuple(normalize[name]) for name in ("mean", "std")}
    try:
        return Preprocessing(**found, **values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def chosen_preprocessing(
    known: Preprocessing | None,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
) -> Preprocessing | None:
    """Return what is known of a network's preprocessing, with the user's choices; None to decide by the images.

    Another ``image_size`` keeps the fraction of an image that is cropped.

    Raises:
        UserError: For ``resize`` without a size after cropping, or smaller than it.
    """
    if image_size is None and known is None:
        if resize is not None:
            raise UserError(f"--resize {resize}: requires the size after cropping; add --image-size {CROP}")
        return None
    before = known or DEFAULT
    crop = before.crop if image_size is None else image_size
    if resize is None:
        small = known is None and crop <= MEMORY_IMAGES
        resize = crop if small else before.resize if crop == before.crop else _scaled(before, crop)
    elif resize < crop:
        raise UserError(f"--resize {resize}: smaller than --image-size {crop}; give at least {crop}")
    how = interpolation or before.interpolation
    antialias = before.antialias or how not in ALIASED
    return replace(before, resize=resize, crop=crop, interpolation=how, antialias=antialias)


def _scaled(known: Preprocessing, crop: int) -> int:
    return max(1, round(crop * known.resize / known.crop))


def from_fraction(crop: int, fraction: float, **more: Any) -> Preprocessing:
    """Return a preprocessing that crops this fraction of the resized image, rounded as timm does."""
    return Preprocessing(resize=math.floor(crop / fraction), crop=crop, **more)
