"""Decode image files: one file, or all files of a listing into one array."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.listing import ImageListing
from common.errors import UserError

CHUNK = 256  # images per task of a thread


class MixedSizesError(UserError):
    """Images of different sizes, which do not fit into one array."""


def read_image(path: Path) -> Image.Image:
    """Return the decoded image in RGB. Raises UserError naming a file that is truncated or not an image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"{path}: deleted while the data set is read; restore it and start again") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: truncated or unreadable image ({error}); replace or remove it") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) from the file's header. Raises UserError like :func:`read_image`."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: truncated or unreadable image ({error}); replace or remove it") from error


def decode_all(listing: ImageListing) -> np.ndarray:
    """Decode all images in threads: (N, 3, H, W) uint8. Raises MixedSizesError naming the first image of another size."""
    height, width = image_size(listing.path(0))
    pixels: np.ndarray = np.empty((len(listing), 3, height, width), dtype=np.uint8)

    def decode(start: int) -> int:
        end = min(start + CHUNK, len(listing))
        for index in range(start, end):
            path = listing.path(index)
            image = read_image(path)
            if (image.height, image.width) != (height, width):
                raise MixedSizesError(
                    f"{path}: {image.width} x {image.height} pixels, but {listing.path(0).name} has {width} x {height}; "
                    "this data set requires images of one size"
                )
            pixels[index] = np.asarray(image).transpose(2, 0, 1)
        return end - start

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        with tqdm(total=len(listing), desc=f"reading {listing.folder}", unit="images", disable=None) as progress:
            for done in pool.map(decode, range(0, len(listing), CHUNK)):
                progress.update(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return pixels


def count_sizes(listing: ImageListing, positions: Sequence[int] | None = None) -> Counter[tuple[int, int]]:
    """Count the images of each size (height, width), from the headers of all files or of those at ``positions``."""
    chosen = range(len(listing)) if positions is None else positions
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return Counter(pool.map(lambda index: image_size(listing.path(index)), chosen))
