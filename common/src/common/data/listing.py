"""Folders of class folders of pictures, as torchvision's ImageFolder reads them."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The pictures below a folder, sorted by class, then path."""

    folder: Path
    classes: list[str]
    paths: np.ndarray  # (N,) bytes: relative to the folder; one block, so that workers do not copy a million objects
    labels: np.ndarray  # (N,) int64
    sizes: np.ndarray = field(repr=False)  # (N,) int64 bytes on disk
    changed: np.ndarray = field(repr=False)  # (N,) int64 nanoseconds

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Where picture number `index` lies."""
        return self.folder / os.fsdecode(bytes(self.paths[index]))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the relative paths and sizes."""
        return self._digest(self.sizes)

    def cache_key(self) -> str:
        """SHA-256 (hex) over paths, sizes and times of change: another one as soon as a picture was replaced."""
        return self._digest(self.sizes, self.changed)

    def _digest(self, *numbers: np.ndarray) -> str:
        digest = hashlib.sha256(b"\0".join(self.paths.tolist()))
        for values in numbers:
            digest.update(np.ascontiguousarray(values, dtype="<i8").data)
        return digest.hexdigest()


def list_images(folder: Path) -> ImageListing:
    """The listing of a folder with one folder per class (deeper folders count too).

    Raises UserError for a missing folder, one without class folders, and a class without pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a folder of pictures per class")
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{folder}: has no class folders; put the pictures of each class into a folder of its own there"
        )
    rows: list[tuple[bytes, int, int, int]] = []
    for label, name in enumerate(classes):
        found = _pictures_below(os.path.join(folder, name), os.fsencode(name))
        if not found:
            raise UserError(f"{folder / name}: class folder without pictures ({' '.join(ENDINGS)}); fill or remove it")
        rows.extend((path, label, size, changed) for path, size, changed in sorted(found))
    paths, labels, sizes, changed = zip(*rows, strict=True)
    numbers = (np.array(column, dtype=np.int64) for column in (labels, sizes, changed))
    return ImageListing(folder, classes, np.array(paths, dtype=np.bytes_), *numbers)


def list_train_and_test(train: Path, test: Path) -> tuple[ImageListing, ImageListing]:
    """Listings of both sides. Raises UserError if their classes differ."""
    sides = list_images(train), list_images(test)
    only_train, only_test = (sorted(set(a.classes) - set(b.classes)) for a, b in (sides, sides[::-1]))
    if only_train or only_test:
        name, where, other = (only_train[0], train, test) if only_train else (only_test[0], test, train)
        raise UserError(
            f"{where}: class folder '{name}' is not in {other} ({len(only_train) + len(only_test)} differ in all); "
            "both sides need the same classes"
        )
    return sides


def _pictures_below(folder: str, prefix: bytes) -> list[tuple[bytes, int, int]]:
    """(relative path, bytes, nanoseconds) of every picture below a folder."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + b"/" + os.fsencode(entry.name)
            if entry.name.lower().endswith(ENDINGS) and entry.is_file():
                status = entry.stat()
                found.append((path, status.st_size, status.st_mtime_ns))
            elif entry.is_dir():
                found.extend(_pictures_below(entry.path, path))
    return found
