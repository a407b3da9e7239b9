"""Listings of image folders with one folder per class, as read by torchvision's ImageFolder."""

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OTHER_ENDINGS = (
    ".avif",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jxl",
    ".npy",
    ".npz",
    ".tga",
)  # not read, but counted
NUMBERED = re.compile(r"(|.*[^0-9])((?:^[-+])?[0-9]{1,19})([^0-9]*)")  # (text, number, text)
NOT_DATA = ("__MACOSX", "@eaDir")  # folders that archivers and file servers add; hidden entries are not data either


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

    def part(self, chosen: np.ndarray) -> "ImageListing":
        """Return the listing of some of the images. chosen: (N,) bool."""
        columns = (self.paths, self.labels, self.sizes, self.modified)
        return ImageListing(self.folder, self.classes, *(column[chosen] for column in columns))

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
    """List a folder with one folder per class; nested folders are included, hidden entries are not.

    Raises UserError for a missing folder, a folder without class folders, a class without images, links to missing files
    and names that are not UTF-8. Warns about images that are not read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder with one folder of images per class")
    found = _Found(folder)
    classes = class_folders(folder, found)
    if not classes:
        raise UserError(f"{folder}: no class folders; put the images of each class into a separate folder there")
    for label, name in enumerate(classes):
        before = len(found.rows)
        found.search(os.path.join(folder, name), os.fsencode(name), label)
        if len(found.rows) == before and not found.broken:
            raise UserError(
                f"{folder / name}: class folder without images ({' '.join(ENDINGS)}); add images or remove it"
            )
    found.check()
    paths, labels, sizes, modified = zip(*sorted(found.rows, key=lambda row: (row[1], row[0])), strict=True)
    numbers = (np.array(column, dtype=np.int64) for column in (labels, sizes, modified))
    return ImageListing(folder, classes, np.array(paths, dtype=np.bytes_), *numbers)


def class_folders(folder: Path, found: "_Found | None" = None) -> list[str]:
    """Return the names of a folder's class folders, sorted as text. Raises UserError for names that are not UTF-8.

    found: record of the entries that are not class folders.
    """
    found, names = found or _Found(folder), []
    for entry in _entries(folder):
        if _kind(entry) == "folder":
            names.append(entry.name)
        else:
            found.add_other(entry, outside=True)
    wrong = sorted(name for name in names if not is_utf8(name))
    if wrong:
        raise UserError(
            f"{folder}: the names of {len(wrong)} of {len(names)} class folders are not UTF-8, e.g. {wrong[0]!a}; "
            "rename them"
        )
    return sorted(names)


def is_utf8(name: str) -> bool:
    """Return whether a file name can be written to reports, which are UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace").encode() == os.fsencode(name)


@dataclass
class _Found:
    """The entries found in a folder of class folders: images, and what is not read.

    Attributes:
        rows: (relative path, label, bytes, nanoseconds) of every image.
        broken: Links to missing files, and images that are neither files nor folders.
        outside: Number of images that are in no class folder.
        others: Number of images in formats that are not read, by ending.
    """

    folder: Path
    rows: list[tuple[bytes, int, int, int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    outside: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def search(self, folder: str, prefix: bytes, label: int, above: tuple[tuple[int, int], ...] = ()) -> None:
        """Add the images of a class folder and its subfolders. Raises UserError for a link to a folder above it."""
        status = os.stat(folder)
        place = (status.st_dev, status.st_ino)
        if place in above:
            raise UserError(f"{folder}: a link to a folder that contains it; remove the link")
        for entry in _entries(folder):
            path, kind = prefix + b"/" + os.fsencode(entry.name), _kind(entry)
            if kind == "folder":
                self.search(entry.path, path, label, (*above, place))
            elif kind == "file" and entry.name.lower().endswith(ENDINGS):
                status = entry.stat()
                self.rows.append((path, label, status.st_size, status.st_mtime_ns))
            else:
                self.add_other(entry)

    def add_other(self, entry: "os.DirEntry[str]", outside: bool = False) -> None:
        """Record an entry that is neither a folder nor an image in a class folder."""
        name = entry.name.lower()
        if _kind(entry) != "file":
            if entry.is_symlink() or name.endswith(ENDINGS):
                self.broken.append(entry.path)
        elif outside:
            self.outside += name.endswith(ENDINGS)
        elif name.endswith(OTHER_ENDINGS):
            self.others[os.path.splitext(name)[1]] += 1
        elif "." not in name:
            self.others["without an ending"] += 1

    def check(self) -> None:
        """Raise UserError for links to missing files; warn about images that are not read."""
        if self.broken:
            count, total = len(self.broken), len(self.broken) + len(self.rows)
            raise UserError(
                f"{self.folder}: {count} of {total} images are links to missing files, or are not files, "
                f"e.g. {min(self.broken)}; restore or remove them"
            )
        if self.outside:
            warnings.warn(f"{self.folder}: {self.outside} images are in no class folder and are not read", stacklevel=4)
        if self.others:
            counts = ", ".join(f"{count} {ending}" for ending, count in sorted(self.others.items()))
            warnings.warn(
                f"{self.folder}: files that are not read: {counts}; convert images to PNG or JPEG",
                stacklevel=4,
            )


def _entries(folder: str | Path) -> Iterator["os.DirEntry[str]"]:
    """Yield the entries of a folder that are data, in no particular order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name not in NOT_DATA:
                yield entry


def _kind(entry: "os.DirEntry[str]") -> str:
    """Return "folder", "file" or "other": links to nowhere and to themselves, pipes, devices."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:
        return "other"


def list_train_and_test(train: Path, test: Path, numeric: bool = False) -> tuple[ImageListing, ImageListing]:
    """List the training and the test folder. Raises UserError if their classes differ, or there is only one.

    numeric: Sort class folders by their numbers, not as text (as torchvision's ImageFolder does); otherwise a warning
        says where the two orders differ.
    """
    first, second = list_images(train), list_images(test)
    only_train, only_test = (
        sorted(set(first.classes) - set(second.classes)),
        sorted(set(second.classes) - set(first.classes)),
    )
    if only_train or only_test:
        name, folder, other = (only_train[0], train, test) if only_train else (only_test[0], test, train)
        raise UserError(
            f"{folder}: class folder '{name}' is not in {other} ({len(only_train) + len(only_test)} classes differ); "
            "both folders must have the same classes"
        )
    return _checked(first, numeric), _checked(second, numeric, warn=False)


def list_and_split(folder: Path, fraction: float, numeric: bool = False) -> tuple[ImageListing, ImageListing]:
    """List a folder of class folders and hold out a fraction of each class: (listing for training, listing for testing).

    The images whose paths, relative to the folder, have the smallest SHA-256 are held out: always the same ones, wherever the
    folder is, and nearly the same ones after others were added. Every class keeps at least one image in both parts.

    Raises:
        UserError: As :func:`list_images`, for a single class, and for a class with a single image.
    """
    listing = _checked(list_images(folder), numeric)
    held: np.ndarray = np.zeros(len(listing), dtype=bool)
    for label, name in enumerate(listing.classes):
        members = np.flatnonzero(listing.labels == label)
        if len(members) < 2:
            raise UserError(
                f"{folder / name}: only one image, of which none can be held out; add images, or remove the class folder"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        digests = [hashlib.sha256(bytes(listing.paths[index])).digest() for index in members]
        held[members[sorted(range(len(members)), key=digests.__getitem__)[:count]]] = True
    return listing.part(~held), listing.part(held)


def _checked(listing: ImageListing, numeric: bool, warn: bool = True) -> ImageListing:
    """Return a listing, sorted by the numbers of its classes if ``numeric``. Raises UserError if there is only one class."""
    if len(listing.classes) == 1:
        raise UserError(
            f"{listing.folder}: only one class folder, '{listing.classes[0]}'; a classifier needs at least two classes, otherwise "
            "every network is right on 100 % of the images"
        )
    if numeric:
        return _by_number(listing)
    if warn and numeric_order(listing.classes) not in (None, listing.classes):
        warnings.warn(
            f"{listing.folder}: the {len(listing.classes)} class folders are numbered, sorted as text "
            f"({', '.join(listing.classes[:3])}, ...); for weights trained with numeric order, use --dataset numeric-folder:PATH",
            stacklevel=3,
        )
    return listing


def _by_number(listing: ImageListing) -> ImageListing:
    """Return a listing with its classes in numeric order; images keep their order."""
    classes = numeric_order(listing.classes)
    if classes is None:
        raise UserError(
            f"{listing.folder}: the names of the class folders do not differ in one number alone; use --dataset folder:PATH, not numeric-folder:PATH"
        )
    position = {name: label for label, name in enumerate(classes)}
    labels = np.array([position[name] for name in listing.classes], dtype=np.int64)[listing.labels]
    return replace(listing, classes=classes, labels=labels)


def numeric_order(classes: Sequence[str]) -> list[str] | None:
    """Return class names in the order of their numbers: integers, or the same text around them ("class5"); None for others."""
    matches = [NUMBERED.fullmatch(name) for name in classes]
    parts = [match.groups() for match in matches if match]
    if len(parts) < len(classes) or len({(before, after) for before, _, after in parts}) > 1:
        return None
    numbers = {name: int(number) for name, (_, number, _) in zip(classes, parts, strict=True)}
    return sorted(classes, key=lambda name: (numbers[name], name))
