"""Get a public data set or trained weights: `python -m common.fetch cifar10`, resumable and checked.

A file is downloaded to NAME.part, resumed after an interruption, and takes its final name only after its SHA-256 was
right. An archive is unpacked beside its final place and takes its name whole. :mod:`common.downloads` has the table.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from tqdm import tqdm

from common.atomic import atomic_file
from common.downloads import ITEMS, Item, default_root
from common.errors import UserError
from common.settings import REQUIRED, command, option, settings
from common.unpack import unpack_gz, unpack_tar

BLOCK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 3  # without a single new byte
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


@settings
class Fetch:
    """Get public data sets and trained weights."""

    name: list[str] = option(
        REQUIRED, "what to get: %(choices)s", "name", nargs="+", choices=list(ITEMS), metavar="NAME"
    )
    to: Path | None = option(None, "folder to put it in; data/NAME if not given (data/weights for networks)")
    source: Path | None = option(
        None, "copy from this folder instead, with the same checks", "--from", metavar="FOLDER"
    )
    base_url: str | None = option(None, "address of a mirror, up to the file names", metavar="URL")

    def __post_init__(self) -> None:
        if self.source is not None and self.base_url is not None:
            raise UserError("--from and --base-url exclude each other: give the one that has the files")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the command."""
    return command(Fetch, fetch_all, argv, "python -m common.fetch")


def fetch_all(settings: Fetch) -> None:
    """The command."""
    for name in settings.name:
        for path in fetch(name, settings.to, settings.source, settings.base_url):
            print(path)


def fetch(
    name: str,
    to: Path | None = None,
    source: Path | None = None,
    base_url: str | None = None,
    items: dict[str, tuple[Item, ...]] = ITEMS,
    pause: float = 1.0,
) -> list[Path]:
    """Get everything of one name into the folder `to`; returns the paths of what it became.

    `source` is a local folder to copy from instead; `base_url` an address instead of the table's, up to the file names.
    What is there already and right is left alone. `pause` is the seconds before another attempt.
    """
    if to is None:
        to = default_root("weights" if name.startswith("resnet") else name)
    return [_fetch_item(item, Path(to), source, base_url, pause) for item in items[name]]


def _fetch_item(item: Item, to: Path, source: Path | None, base_url: str | None, pause: float) -> Path:
    final = to / item.result
    if final.exists():
        expected = item.content_sha256 or item.sha256
        if final.is_file() and sha256_of(final) != expected:
            raise UserError(f"{final}: is there, but its SHA-256 is not {expected}; move it away and fetch again")
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        _place(_found_in(source, item), final, item)
        return final
    if base_url is not None:
        item = replace(item, url=f"{base_url.rstrip('/')}/{item.file}")
    part = final.parent / f"{item.file}.part"
    download(item, part, pause)
    _place(part, final, item)
    part.unlink()
    return final


def _found_in(source: Path, item: Item) -> Path:
    """The item's file somewhere usual below a local folder. A .gz file may be packed again or not at all, others are checked."""
    names = [item.file, item.file.removesuffix(".gz")] if item.unpack == "gz" else [item.file]
    below = Path(item.result).parent
    places = [folder / name for folder in (source, source / below, source / below.name) for name in names]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"{source}: has no {' or '.join(names)} (nor {source / below})")
    if item.unpack != "gz" and (found := sha256_of(file)) != item.sha256:
        raise UserError(f"{file}: its SHA-256 is {found}, expected {item.sha256}; get it again")
    return file


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(item: Item, part: Path, pause: float = 1.0) -> None:
    """The item's file under the name `part`, whole and with the right SHA-256, resumed from what is there of it.

    Raises UserError if the address does not answer or what it sends is wrong; a wrong file is removed, an incomplete
    one kept for the next call.
    """
    if not item.url.startswith(("http://", "https://")):
        raise UserError(f"{item.url}: expected an address that begins with http:// or https://")
    resumed = _size(part) > 0
    _download_all(item, part, pause)
    if (found := sha256_of(part)) != item.sha256:
        part.unlink()
        if resumed:  # what was there before may have been another file's beginning
            return download(item, part, pause)
        raise UserError(
            f"{item.url}: what came has the SHA-256 {found}, expected {item.sha256}; nothing was kept. Try again later "
            "or a mirror: --base-url"
        )


def _download_all(item: Item, part: Path, pause: float) -> None:
    """Ask until all is there; give up after some attempts without a new byte. What is too long is left to the checksum."""
    fruitless = 0
    while item.size is None or _size(part) < item.size:
        have, reason = _size(part), "the connection was cut"
        try:
            if _download_rest(item, part, have):
                return
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # no more is there; the checksum will tell whether that is all
            raise UserError(
                f"{item.url}: the server says {error.code} {error.reason}; try a mirror: --base-url"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        fruitless = 0 if _size(part) > have else fruitless + 1
        if fruitless == ATTEMPTS:
            raise UserError(
                f"{item.url}: {_size(part)} bytes came, then no more ({reason}); the same command goes on from there. "
                "Without a network: --from FOLDER"
            )
        time.sleep(pause)


def _download_rest(item: Item, part: Path, have: int) -> bool:
    """One request for the bytes from `have` on, appended to `part`; whether the file is complete."""
    request = urllib.request.Request(item.url, headers={"User-Agent": "compression-papers"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        place = response.headers.get("Content-Range", "")
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT and place.startswith(f"bytes {have}-")
        written = have if resumed else 0
        total = item.size or (None if response.length is None else written + response.length)
        bar = tqdm(total=total, initial=written, desc=item.file, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if resumed else "wb") as file:
            while (item.size is None or written <= item.size) and (block := response.read(BLOCK)):
                file.write(block)
                written += len(block)
                bar.update(len(block))
    return written >= (total or 0)


def _size(part: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return part.stat().st_size if part.exists() else 0


def _place(archive: Path, final: Path, item: Item) -> None:
    """Give a file its final form and name; the file itself stays where it is."""
    if item.unpack == "gz":
        unpack_gz(archive, final, item.content_size, item.content_sha256)
    elif item.unpack == "tar":
        unpack_tar(archive, final)
    else:
        with atomic_file(final) as copy:
            shutil.copyfile(archive, copy)


if __name__ == "__main__":
    sys.exit(main())
