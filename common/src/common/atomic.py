"""Write files atomically: under a temporary name in the target's folder, then renamed.

A killed writer leaves its temporary file, which the next writer of the same file, or the next command in the run folder, removes.
"""

import csv
import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.locks import try_lock

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # no file can be written before this is mended
SUFFIX = ".part"
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}" + re.escape(SUFFIX))


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to the target; flush the file to disk and rename it to ``path`` on success.

    The folder is created if it is missing. On an error the temporary file is deleted and ``path`` is not changed.
    The temporary file has a folder of its own, because some writers (safetensors) create another one next to it.

    Raises:
        OSError: With the name of ``path`` if the disk is full, also for writers that report this otherwise.
    """
    path = Path(path)
    place: _Place | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(path.parent, path.name)
        place = _Place(path)
        yield place.file
        with open(place.file, "rb") as file:
            os.fsync(file.fileno())
        place.file.chmod(0o666 & ~_umask())
        place.file.replace(path)
    except BaseException as error:
        full = disk_error(error)
        if full is not None:
            raise OSError(full, os.strerror(full), str(path)) from error
        raise
    finally:
        if place is not None:
            place.remove()


def disk_error(error: BaseException | None) -> int | None:
    """Return the error number if a writer failed because the disk is full; writers in C++ and Rust report it as text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error.errno
        native = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if native and int(native[1]) in DISK_ERRORS:
            return int(native[1])
        error = error.__cause__ or error.__context__
    return None


def remove_temporary_files(folder: Path, name: str | None = None) -> None:
    """Delete the temporary files that killed writers left in a folder. name: only those of the file of this name."""
    for place in folder.glob(f".*{SUFFIX}"):
        found = TEMPORARY.fullmatch(place.name)
        if found is None or (name is not None and found["name"] != name):
            continue
        with suppress(OSError):  # gone, or not ours
            descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if try_lock(descriptor):  # otherwise its writer is running
                    _remove(place)
            finally:
                os.close(descriptor)


class _Place:
    """A temporary folder next to a file, locked while its writer runs."""

    def __init__(self, path: Path) -> None:
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
            self.file = self.folder / "new"  # not the target's name, which could be found by a search for it
            with suppress(FileNotFoundError):
                self._descriptor = os.open(self.folder, os.O_RDONLY)
                if try_lock(self._descriptor) is not False and self.folder.exists():
                    return
                os.close(self._descriptor)  # another process has taken the folder for that of a killed writer

    def remove(self) -> None:
        _remove(self.folder)
        os.close(self._descriptor)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Add a file's name to errors of the operating system that have none, such as a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV, atomically; the first row's keys are the header."""
    write_text(path, csv_text(rows))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of :func:`write_csv`."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
