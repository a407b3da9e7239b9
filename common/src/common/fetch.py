"""Download public data sets and trained weights: ``python -m common.fetch cifar10``, resumable and verified.

A file is downloaded to NAME.part, resumed after an interruption, and renamed only after its SHA-256 has been verified. An
archive is unpacked to a temporary folder, which is then renamed. The files are listed in :mod:`common.downloads`.
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
from common.downloads import REMOTE_FILES, RemoteFile, default_root
from common.errors import UserError
from common.settings import REQUIRED, command, option, settings
from common.unpack import unpack_gz, unpack_tar

BLOCK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 3  # in a row without a new byte
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


@settings
class Fetch:
    """Download public data sets and trained weights."""

    name: list[str] = option(
        REQUIRED, "data sets and weights: %(choices)s", "name", nargs="+", choices=list(REMOTE_FILES), metavar="NAME"
    )
    to: Path | None = option(None, "destination folder; data/NAME (data/weights for networks) if not given")
    source: Path | None = option(
        None, "local folder to copy from instead, with the same checks", "--from", metavar="FOLDER"
    )
    base_url: str | None = option(None, "URL of a mirror, without the file names", metavar="URL")

    def __post_init__(self) -> None:
        if self.source is not None and self.base_url is not None:
            raise UserError("--from and --base-url: only one is allowed; give the one that has the files")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(Fetch, fetch_all, argv, "python -m common.fetch")


def fetch_all(settings: Fetch) -> None:
    """Fetch all requested names and print the resulting paths."""
    for name in settings.name:
        for path in fetch(name, settings.to, settings.source, settings.base_url):
            print(path)


def fetch(
    name: str,
    to: Path | None = None,
    source: Path | None = None,
    base_url: str | None = None,
    files: dict[str, tuple[RemoteFile, ...]] = REMOTE_FILES,
    pause: float = 1.0,
) -> list[Path]:
    """Fetch all files of one name and return the paths of the resulting files and folders.

    Existing files with the right SHA-256 are not fetched again.

    Args:
        to: Destination folder; None: the default folder.
        source: Local folder to copy from instead.
        base_url: URL of a mirror, without the file names.
        pause: Seconds between two attempts.

    Raises:
        UserError: If a file cannot be fetched or has a wrong SHA-256.
    """
    if to is None:
        to = default_root("weights" if name.startswith("resnet") else name)
    return [_fetch_file(file, Path(to), source, base_url, pause) for file in files[name]]


def _fetch_file(remote: RemoteFile, to: Path, source: Path | None, base_url: str | None, pause: float) -> Path:
    final = to / remote.result
    if final.exists():
        expected = remote.content_sha256 or remote.sha256
        if final.is_file() and sha256_of(final) != expected:
            raise UserError(
                f"{final}: the existing file has another SHA-256 than {expected}; move it away and fetch again"
            )
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        _install(_find_local(source, remote), final, remote)
        return final
    if base_url is not None:
        remote = replace(remote, url=f"{base_url.rstrip('/')}/{remote.file}")
    part = final.parent / f"{remote.file}.part"
    download(remote, part, pause)
    _install(part, final, remote)
    part.unlink()
    return final


def _find_local(source: Path, remote: RemoteFile) -> Path:
    """Find a file in the usual subfolders of a local folder. A .gz file may be recompressed or unpacked; others are verified."""
    names = [remote.file, remote.file.removesuffix(".gz")] if remote.unpack == "gz" else [remote.file]
    below = Path(remote.result).parent
    candidates = [folder / name for folder in (source, source / below, source / below.name) for name in names]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        raise UserError(
            f"{source}: no {' or '.join(names)} there or in {source / below}; give the folder that has it with --from"
        )
    if remote.unpack != "gz" and (found := sha256_of(file)) != remote.sha256:
        raise UserError(f"{file}: SHA-256 {found}, expected {remote.sha256}; download it again")
    return file


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(remote: RemoteFile, part: Path, pause: float = 1.0) -> None:
    """Download a file to `part`, resuming from its present content, and verify the SHA-256.

    Raises UserError if the server does not answer or sends wrong content. A wrong file is removed; an incomplete one is kept
    for the next call.
    """
    if not remote.url.startswith(("http://", "https://")):
        raise UserError(f"{remote.url}: unsupported URL; give one that begins with http:// or https://")
    resumed = _size(part) > 0
    _download_all(remote, part, pause)
    if (found := sha256_of(part)) != remote.sha256:
        part.unlink()
        if resumed:  # the previous content may have been part of another file
            return download(remote, part, pause)
        raise UserError(
            f"{remote.url}: the downloaded file has SHA-256 {found}, expected {remote.sha256}, and was removed; try again later or "
            "give a mirror with --base-url"
        )


def _download_all(remote: RemoteFile, part: Path, pause: float) -> None:
    """Request the file until it is complete, or ATTEMPTS times without a new byte. The checksum detects a file that is too long."""
    failures = 0
    while remote.size is None or _size(part) < remote.size:
        offset, reason = _size(part), "the connection was closed"
        try:
            if _download_rest(remote, part, offset):
                return
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return  # nothing is left to download; the checksum is verified next
            raise UserError(
                f"{remote.url}: HTTP error {error.code} {error.reason}; give a mirror with --base-url"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        failures = 0 if _size(part) > offset else failures + 1
        if failures == ATTEMPTS:
            raise UserError(
                f"{remote.url}: download stopped after {_size(part)} bytes ({reason}); repeat the command to resume, or give a "
                "local copy with --from FOLDER"
            )
        time.sleep(pause)


def _download_rest(remote: RemoteFile, part: Path, offset: int) -> bool:
    """Request the bytes from `offset` on, append them to `part`, and return whether the file is complete."""
    request = urllib.request.Request(remote.url, headers={"User-Agent": "compression-papers"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT and content_range.startswith(f"bytes {offset}-")
        written = offset if resumed else 0
        total = remote.size or (None if response.length is None else written + response.length)
        bar = tqdm(total=total, initial=written, desc=remote.file, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if resumed else "wb") as file:
            while (remote.size is None or written <= remote.size) and (block := response.read(BLOCK)):
                file.write(block)
                written += len(block)
                bar.update(len(block))
    return written >= (total or 0)


def _size(part: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    return part.stat().st_size if part.exists() else 0


def _install(archive: Path, final: Path, remote: RemoteFile) -> None:
    """Unpack or copy a downloaded file to its final path; the file itself is kept."""
    if remote.unpack == "gz":
        unpack_gz(archive, final, remote.content_size, remote.content_sha256)
    elif remote.unpack == "tar":
        unpack_tar(archive, final)
    else:
        with atomic_file(final) as copy:
            shutil.copyfile(archive, copy)


if __name__ == "__main__":
    sys.exit(main())
