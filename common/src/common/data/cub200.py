"""Reader of CUB-200-2011: four lists next to a folder of photos.

The Caltech-UCSD Birds-200-2011 Dataset, C. Wah et al., technical report CNS-TR-2011-001. Every line of a list is a number and a value:
images.txt (path below images/), image_class_labels.txt (class number), train_test_split.txt (1: training) and classes.txt (name).
"""

from pathlib import Path, PurePosixPath

import numpy as np

from common.data.listing import ImageListing
from common.errors import UserError

FOLDER = "CUB_200_2011"
LISTS = IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"


def is_cub200(folder: Path) -> bool:
    """Return whether a folder contains one of the lists."""
    return any((folder / name).is_file() for name in (IMAGES, LABELS, SPLIT))


def read_cub200(folder: Path) -> tuple[ImageListing, ImageListing]:
    """List the training and the test images of the official split. Raises UserError naming the inconsistent list."""
    images, labels, split, classes = (_read_list(folder / name) for name in LISTS)
    for name, entries in ((LABELS, labels), (SPLIT, split)):
        missing = images.keys() ^ entries.keys()
        if missing:
            raise UserError(
                f"{folder / name}: image {min(missing)} is in only one of {IMAGES} and {name}; fetch the data set again"
            )
    positions = {number: position for position, number in enumerate(sorted(classes))}
    parts: dict[str, list[tuple[int, str]]] = {"0": [], "1": []}
    for number, path in images.items():
        label = _to_int(labels[number], folder / LABELS)
        if label not in positions:
            raise UserError(f"{folder / LABELS}: class {label} of image {number} is not in {CLASSES}")
        if split[number] not in parts:
            raise UserError(f"{folder / SPLIT}: {split[number]!r} for image {number}; expected 0 or 1")
        parts[split[number]].append((positions[label], path))
    names = [classes[number] for number in sorted(classes)]
    return _list_part(folder, names, parts["1"]), _list_part(folder, names, parts["0"])


def _read_list(file: Path) -> dict[int, str]:
    """Return {number: value}."""
    if not file.is_file():
        raise UserError(f"{file.parent}: {file.name} is missing; fetch the data set again")
    found: dict[int, str] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text file ({error}); fetch the data set again") from error
    for position, line in enumerate(lines, start=1):
        number, _, value = line.strip().partition(" ")
        if not value:
            raise UserError(
                f"{file}, line {position}: {line[:80]!r} is not a number and a value; fetch the data set again"
            )
        key = _to_int(number, file)
        if key in found:
            raise UserError(f"{file}, line {position}: number {key} occurs twice; fetch the data set again")
        found[key] = value.strip()
    return found


def _to_int(text: str, file: Path) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UserError(f"{file}: {text[:80]!r} is not a number; fetch the data set again")
    return int(text)


def _list_part(folder: Path, classes: list[str], rows: list[tuple[int, str]]) -> ImageListing:
    rows = sorted(rows)
    sizes, modified = [], []
    for _, path in rows:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"{folder / IMAGES}: {path} is not below images/; fetch the data set again")
        try:
            status = (folder / "images" / path).stat()
        except OSError as error:
            raise UserError(f"{folder / 'images' / path}: {error.strerror}; fetch the data set again") from error
        sizes.append(status.st_size)
        modified.append(status.st_mtime_ns)
    paths = np.array([path.encode() for _, path in rows], dtype=np.bytes_)
    labels = np.array([label for label, _ in rows], dtype=np.int64)
    return ImageListing(
        folder / "images", classes, paths, labels, np.array(sizes, dtype=np.int64), np.array(modified, dtype=np.int64)
    )
