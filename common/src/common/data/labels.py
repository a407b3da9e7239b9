"""A folder of images whose classes are in a CSV file, one row per image, instead of in class folders.

file,label
0c7ac4a8c9dfa802.jpg,305
f43fbfe8a9ea876c.jpg,883
"""

import csv
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from common.data.listing import ENDINGS, ImageListing
from common.errors import UserError

FILE_LIMIT = 2**28  # bytes
CLASSES_LIMIT = 10**6
FILE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "image",
    "imageid",
    "image_id",
    "path",
    "name",
)  # found without being named
CLASS_COLUMNS = ("label", "class", "label0", "class_id", "target")


@dataclass(frozen=True)
class LabeledImages:
    """Images with the names of their classes; ``numbered``: the names are the numbers of a network's outputs."""

    listing: ImageListing
    numbered: bool

    def parts(self, split: float | None) -> tuple[ImageListing, ImageListing]:
        """Return the images for training and for testing; without a fraction, all are for testing, and listed in both."""
        if split is None:
            return self.listing, self.listing
        held = held_out(self.listing, split)
        return self.listing.part(~held), self.listing.part(held)


def read_labels(folder: Path, file: Path | str, columns: Sequence[str] = ()) -> LabeledImages:
    """Return the images of a folder that a CSV file lists, sorted by class, then path.

    Args:
        file: CSV file whose first row names its columns (separated by tabs in a .tsv file).
        columns: Names of the column with the files, relative to the folder, and of that with the classes; default: found by name.
            Classes are numbers from 0, or names.

    Raises:
        UserError: For missing files and columns, images that are listed twice or are not in the folder, and negative numbers.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the images that {file} lists")
    rows = _read_rows(Path(file).expanduser(), file, columns)
    names = {name for _, name in rows}
    numbered = all(name.isascii() and name.isdigit() for name in names)
    if numbered:
        largest = max(map(_number, names))
        if largest >= CLASSES_LIMIT:
            raise UserError(f"--labels {file}: class {largest}; numbers of classes are below {CLASSES_LIMIT:,}")
        classes = [str(number) for number in range(largest + 1)]
        positions = {name: _number(name) for name in names}
    else:
        negative = next((name for name in names if name[:1] == "-" and name[1:].isdigit()), None)
        if negative:
            raise UserError(f"--labels {file}: class {negative}; numbers of classes begin with 0")
        classes = sorted(names)
        positions = {name: position for position, name in enumerate(classes)}
    if len(names) < 2:
        raise UserError(f"--labels {file}: only one class, {classes[-1]!r}; a classifier needs at least two")
    found = _find_files(folder, [path for path, _ in rows], file)
    labels = [positions[name] for _, name in rows]
    order = sorted(range(len(rows)), key=lambda row: (labels[row], found[row][0]))
    paths, sizes, modified = zip(*(found[row] for row in order), strict=True)
    numbers = (np.array(column, dtype=np.int64) for column in ([labels[row] for row in order], sizes, modified))
    return LabeledImages(ImageListing(folder, classes, np.array(paths, dtype=np.bytes_), *numbers), numbered)


def held_out(listing: ImageListing, fraction: float) -> np.ndarray:
    """Return which images to hold out for testing, (N,) bool: always the same ones, chosen by the SHA-256 of their paths.

    The fraction of each class is rounded down; the rest is chosen among the images that are left over, so that classes with a
    single image are in one part. Raises UserError if no image would be left for a part.
    """
    digests = [hashlib.sha256(bytes(path)).digest() for path in listing.paths]
    held: np.ndarray = np.zeros(len(listing), dtype=bool)
    over: list[int] = []
    for label in np.unique(listing.labels):
        members = sorted(np.flatnonzero(listing.labels == label).tolist(), key=digests.__getitem__)
        count = int(fraction * len(members) + 1e-9)
        held[members[:count]] = True
        over += members[count : count + 1] if fraction * len(members) - count > 1e-9 else []
    missing = round(fraction * len(listing)) - int(held.sum())
    held[sorted(over, key=digests.__getitem__)[: max(missing, 0)]] = True
    if held.all() or not held.any():
        raise UserError(
            f"--split {fraction:g}: {listing.folder} has {len(listing)} images, too few; choose another fraction"
        )
    return held


def _read_rows(path: Path, file: object, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return (file, class) of every row."""
    if not path.is_file():
        raise UserError(f"--labels {file}: no such file; give a CSV file with a column of files and one of classes")
    if path.stat().st_size > FILE_LIMIT:
        raise UserError(f"--labels {file}: larger than {FILE_LIMIT:,} bytes; give a CSV file with two columns")
    rows: list[tuple[str, str]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            first, second = _columns(next(reader, []), file, columns)
            for row in reader:
                if not row:
                    continue
                if len(row) <= max(first, second) or not row[first].strip() or not row[second].strip():
                    raise UserError(
                        f"--labels {file}: line {reader.line_num} has no file or no class; complete or remove it"
                    )
                rows.append((row[first].strip(), row[second].strip()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {file}: not a CSV file in UTF-8 ({error}); save it as one") from error
    if not rows:
        raise UserError(f"--labels {file}: no rows after the first, which names the columns; add one row per image")
    return rows


def _columns(header: Sequence[str], file: object, columns: Sequence[str]) -> tuple[int, int]:
    """Return the positions of the columns of files and classes."""
    names = [name.strip() for name in header]
    listed = ", ".join(name[:40] for name in names[:20]) or "none"
    if columns:
        missing = next((name for name in columns if name not in names), None)
        if missing is not None:
            raise UserError(
                f"--label-columns {' '.join(columns)}: {file} has no column {missing!r}; its columns are {listed}"
            )
        return names.index(columns[0]), names.index(columns[1])
    lower = [name.lower() for name in names]
    found = [
        [position for position, name in enumerate(lower) if name in known] for known in (FILE_COLUMNS, CLASS_COLUMNS)
    ]
    if any(len(positions) != 1 for positions in found):
        raise UserError(
            f"--labels {file}: which columns have the files and the classes is not clear from their names ({listed}); add "
            "--label-columns FILES CLASSES"
        )
    return found[0][0], found[1][0]


def _number(name: str) -> int:
    return int(name) if len(name) < 10 else CLASSES_LIMIT


def _find_files(folder: Path, names: Sequence[str], file: object) -> list[tuple[bytes, int, int]]:
    """Return (relative path, bytes, nanoseconds) of each listed image; names may lack the ending. Warns about images not listed."""
    present = {entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(ENDINGS)}
    stems: dict[str, str] = {os.path.splitext(name)[0]: name for name in sorted(present)}
    found, missing = [], []
    for name in names:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise UserError(f"--labels {file}: {name[:100]!r} is outside of {folder}; give names of files in it")
        relative = name if name.lower().endswith(ENDINGS) else stems.get(name, name)
        path = folder / relative
        if not path.is_file() or not relative.lower().endswith(ENDINGS):
            missing.append(name)
            continue
        status = path.stat()
        found.append((os.fsencode(str(PurePosixPath(relative))), status.st_size, status.st_mtime_ns))
    if missing:
        raise UserError(
            f"--labels {file}: {len(missing)} of {len(names)} images are not in {folder}, e.g. {missing[0][:100]!r}; restore them, or "
            "remove their rows"
        )
    repeated = [os.fsdecode(path) for path, count in Counter(path for path, _, _ in found).items() if count > 1]
    if repeated:
        raise UserError(f"--labels {file}: {repeated[0]!r} is listed more than once; keep one row for each image")
    unlisted = present - {os.fsdecode(path) for path, _, _ in found}
    if unlisted:
        warnings.warn(
            f"{folder}: {len(unlisted)} images are not listed in {file} and are not read, e.g. {min(unlisted)}",
            stacklevel=4,
        )
    return found
