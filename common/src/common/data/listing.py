"""Listings of image folders with one folder per class, as read by torchvision's ImageFolder."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The images in a folder, sorted by class, then path."""

    folder: Path
    classes: list[str]
    paths: np.ndarray  # (N,) bytes, relative to the folder; one array, so that workers do not copy a million objects
    labels: np.ndarray  # (N,) int64
    sizes: np.ndarray = field(repr=False)  # (N,) int64 bytes on disk
    modified: np.ndarray = field(repr=False)  # (N,) int64 nanoseconds: time of the last modification

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Return the path of image number `index`."""
        return self.folder / os.fsdecode(bytes(self.paths[index]))

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the relative paths and sizes."""
        return self._digest(self.sizes)

    def cache_key(self) -> str:
        """Return the SHA-256 (hex) of paths, sizes and modification times; it changes when an image is replaced."""
        return self._digest(self.sizes, self.modified)

    def _digest(self, *numbers: np.ndarray) -> str:
        digest = hashlib.sha256(b"\0".join(self.paths.tolist()))
        for values in numbers:
            digest.update(np.ascontiguousarray(values, dtype="<i8").data)
        return digest.hexdigest()


def list_images(folder: Path) -> ImageListing:
    """List a folder with one folder per class; nested folders are included.

    Raises UserError for a missing folder, a folder without class folders, and a class without images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder with one folder of images per class")
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder}: no class folders; put the images of each class into a separate folder there")
    rows: list[tuple[bytes, int, int, int]] = []
    for label, name in enumerate(classes):
        found = _find_images(os.path.join(folder, name), os.fsencode(name))
        if not found:
            raise UserError(
                f"{folder / name}: class folder without images ({' '.join(ENDINGS)}); add images or remove it"
            )
        rows.extend((path, label, size, modified) for path, size, modified in sorted(found))
    paths, labels, sizes, modified = zip(*rows, strict=True)
    numbers = (np.array(column, dtype=np.int64) for column in (labels, sizes, modified))
    return ImageListing(folder, classes, np.array(paths, dtype=np.bytes_), *numbers)


def list_train_and_test(train: Path, test: Path) -> tuple[ImageListing, ImageListing]:
    """List the training and the test folder. Raises UserError if their classes differ."""
    listings = list_images(train), list_images(test)
    only_train, only_test = (sorted(set(a.classes) - set(b.classes)) for a, b in (listings, listings[::-1]))
    if only_train or only_test:
        name, folder, other = (only_train[0], train, test) if only_train else (only_test[0], test, train)
        raise UserError(
            f"{folder}: class folder '{name}' is not in {other} ({len(only_train) + len(only_test)} classes differ); "
            "both folders must have the same classes"
        )
    return listings


def _find_images(folder: str, prefix: bytes) -> list[tuple[bytes, int, int]]:
    """Return (relative path, bytes, nanoseconds) of every image in a folder and its subfolders."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + b"/" + os.fsencode(entry.name)
            if entry.name.lower().endswith(ENDINGS) and entry.is_file():
                status = entry.stat()
                found.append((path, status.st_size, status.st_mtime_ns))
            elif entry.is_dir():
                found.extend(_find_images(entry.path, path))
    return found
