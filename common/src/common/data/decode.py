"""Decode image files: one file, or all files of a listing into one array."""

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.data.listing import ImageListing
from common.errors import UserError
from common.progress import track

CHUNK = 256  # images per task of a thread
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # of common.data.listing.ENDINGS; none runs a program
PIXELS_LIMIT = 2**26  # 192 MiB in RGB
ASPECT_LIMIT = 100  # a longer image would be enlarged to billions of pixels
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
GRAY_MODES = ("1", "L", "LA")
TIFF_TAGS = (258, 339, 262)  # BitsPerSample, SampleFormat, PhotometricInterpretation
TIFF_LARGEST = 281  # MaxSampleValue
TWELVE_BITS = 2**12  # values of cameras and microscopes, in 16 bits

_OPENING = threading.Lock()  # filters of warnings belong to the process
_WARNED = threading.Event()  # set after the warning about a nearly black image


class MixedSizesError(UserError):
    """Images of different sizes, which do not fit into one array."""


def read_image(path: Path) -> Image.Image:
    """Return the decoded image in RGB; 16-bit images are scaled to 8 bits.

    Raises UserError, naming the file, if it is truncated, too large, or not an image of a permitted format and range.
    """
    with _opened(path) as image:
        return _to_rgb(image, path)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) from the file's header. Raises UserError like :func:`read_image`."""
    with _opened(path) as image:
        return image.height, image.width


def is_gray(path: Path) -> bool:
    """Return whether an image file has one channel, by its header. Raises UserError like :func:`read_image`."""
    with _opened(path) as image:
        return image.mode in GRAY_MODES or image.mode in WIDE_MODES


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and check its size, before it is decoded."""
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata, which is not read, and on sizes, whose limit is lower here
            image = Image.open(path, formats=FORMATS)
        with image:
            _check_size(image, path)
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: deleted while the data set is read; restore it and start again") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path}: truncated or unreadable image (none of {', '.join(FORMATS)}); replace or remove it"
        ) from error
    except Exception as error:  # a damaged file raises any exception in Pillow, e.g. IndexError, KeyError, struct.error
        reason = " ".join(str(error).replace(str(path), "").split())[:200] or type(error).__name__
        raise UserError(f"{path}: truncated or unreadable image ({reason}); replace or remove it") from error


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > PIXELS_LIMIT:
        raise UserError(f"{path}: {width} x {height} pixels, more than {PIXELS_LIMIT:,}; shrink the image or remove it")
    if max(width, height) > ASPECT_LIMIT * min(width, height):
        raise UserError(
            f"{path}: {width} x {height} pixels, an aspect ratio over {ASPECT_LIMIT}; crop the image or remove it"
        )


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert an image to 8-bit RGB. Pillow would clip larger values instead of scaling them."""
    if image.mode not in WIDE_MODES:
        return image.convert("RGB")
    shift = _shift(image)
    if shift is None:
        raise UserError(
            f"{path}: pixels of mode {image.mode}, whose range is unknown (32 bits, signed, float or inverted); convert the"
            " image to 8 or 16 bits"
        )
    values = np.asarray(image).astype(np.int64)
    if shift == 8 and values.max() < TWELVE_BITS:
        largest = _recorded_largest(image)
        if largest is None:
            _warn_dark(path, int(values.max()))
        elif largest < TWELVE_BITS:
            values, shift = values * 255 // largest, 0
    return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")


def _recorded_largest(image: Image.Image) -> int | None:
    """Return the largest value that a TIFF file says its pixels have; None if it does not."""
    found = image.tag_v2.get(TIFF_LARGEST) if image.format == "TIFF" else None  # type: ignore[attr-defined]
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) and found > 0 else None


def _warn_dark(path: Path, largest: int) -> None:
    """Warn, once per process, about an image that will be nearly black, perhaps of 12-bit values."""
    if not _WARNED.is_set():
        _WARNED.set()
        warnings.warn(
            f"{path}: a 16-bit image whose largest value is {largest} of 65535, so that it is nearly black in 8 bits; if its "
            "values have 12 bits, scale them (further images are not checked)",
            stacklevel=4,
        )


def _shift(image: Image.Image) -> int | None:
    """Return the number of low bits to drop for 8 bits; None if the range of the values is unknown."""
    if image.format == "TIFF":
        bits, signs, inverted = (image.tag_v2.get(tag) for tag in TIFF_TAGS)  # type: ignore[attr-defined]
        known = bits in ((12,), (16,), 12, 16) and signs in (None, 1, (1,)) and inverted == 1
        return (bits[0] if isinstance(bits, tuple) else bits) - 8 if known else None
    return 8 if image.format in ("PNG", "PPM") and image.mode != "F" else None  # Pillow scales PGM to 16 bits


def decode_all(listing: ImageListing, prepare: Callable[[Image.Image], Image.Image] | None = None) -> np.ndarray:
    """Decode all images in threads: (N, 3, H, W) uint8. Raises MixedSizesError naming the first image of another size.

    prepare: Function that resizes or crops each image; default: the images are used as they are.
    """
    if prepare is None:
        height, width = image_size(listing.path(0))
    else:
        width, height = prepare(read_image(listing.path(0))).size
    pixels: np.ndarray = np.empty((len(listing), 3, height, width), dtype=np.uint8)

    def decode(start: int) -> int:
        end = min(start + CHUNK, len(listing))
        for index in range(start, end):
            path = listing.path(index)
            image = read_image(path) if prepare is None else prepare(read_image(path))
            if (image.height, image.width) != (height, width):
                raise MixedSizesError(
                    f"{path}: {image.width} x {image.height} pixels, but {listing.path(0).name} has {width} x {height}; "
                    "this data set requires images of one size"
                )
            pixels[index] = np.asarray(image).transpose(2, 0, 1)
        return end - start

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        starts = range(0, len(listing), CHUNK)
        for _ in track(pool.map(decode, starts), f"reading {listing.folder}, {CHUNK} images a step", len(starts)):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return pixels


def all_gray(listing: ImageListing) -> bool:
    """Return whether all image files have one channel, by their headers."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return all(pool.map(lambda index: is_gray(listing.path(index)), range(len(listing))))


def count_sizes(listing: ImageListing, positions: Sequence[int] | None = None) -> Counter[tuple[int, int]]:
    """Count the images of each size (height, width), from the headers of all files or of those at ``positions``."""
    chosen = range(len(listing)) if positions is None else positions
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return Counter(pool.map(lambda index: image_size(listing.path(index)), chosen))
