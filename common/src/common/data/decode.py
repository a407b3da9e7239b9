"""Picture files to pixels: one at a time, or a whole listing into one array."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.listing import ImageListing
from common.errors import UserError

CHUNK = 256  # pictures that a thread takes at a time


class MixedSizes(UserError):
    """Pictures of different sizes where one array was to hold them all."""


def read_image(path: Path) -> Image.Image:
    """The decoded picture in RGB. Raises UserError naming a file that is truncated or no picture."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"{path}: vanished while it was to be read") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: truncated or unreadable picture ({error}); replace or remove it") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header. Raises UserError as :func:`read_image` does."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: truncated or unreadable picture ({error}); replace or remove it") from error


def decode_all(listing: ImageListing) -> np.ndarray:
    """All pictures (N, 3, H, W) uint8, decoded in threads. Raises MixedSizes naming the first that differs."""
    height, width = image_size(listing.path(0))
    pixels: np.ndarray = np.empty((len(listing), 3, height, width), dtype=np.uint8)

    def decode(start: int) -> int:
        end = min(start + CHUNK, len(listing))
        for index in range(start, end):
            path = listing.path(index)
            picture = read_image(path)
            if (picture.height, picture.width) != (height, width):
                raise MixedSizes(
                    f"{path}: is {picture.width} x {picture.height} pixels where {listing.path(0).name} is {width} x "
                    f"{height}; this data set needs pictures of one size"
                )
            pixels[index] = np.asarray(picture).transpose(2, 0, 1)
        return end - start

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        with tqdm(total=len(listing), desc=f"reading {listing.folder}", unit="pictures", disable=None) as progress:
            for done in pool.map(decode, range(0, len(listing), CHUNK)):
                progress.update(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return pixels
