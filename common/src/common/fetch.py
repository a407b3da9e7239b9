"""Download public data sets and trained weights: ``python -m common.fetch cifar10``, resumable and verified.

A file is downloaded to NAME.part, resumed after an interruption, and renamed only after its SHA-256 has been verified. An
archive is unpacked to a temporary folder, which is then renamed. The files are listed in :mod:`common.downloads`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

from tqdm import tqdm

from common.atomic import atomic_file, naming
from common.downloads import REMOTE_FILES, RemoteFile, default_root
from common.errors import UserError
from common.options import DATA_FOLDER_HELP
from common.settings import REQUIRED, command, option, settings
from common.unpack import unpack_gz, unpack_tar

BLOCK = 1 << 16  # bytes
TIMEOUT = 30  # seconds without an answer
ATTEMPTS, BUSY_ATTEMPTS = 3, 5  # in a row without a new byte: the second, if the server answers that it is busy
LONGEST_PAUSE = 60.0  # seconds between two attempts
REDIRECTS = 5
SIZE_LIMIT = 1 << 26  # bytes of a file whose size is not known
BUSY, REDIRECTED = (408, 425, 429, 500, 502, 503, 504), (301, 302, 303, 307, 308)  # HTTP status
MIRROR = "give a mirror with --base-url, or a local copy with --from FOLDER"


@settings
class Fetch:
    """Download public data sets and trained weights."""

    name: list[str] = option(
        REQUIRED, "data sets and weights: %(choices)s", "name", nargs="+", choices=list(REMOTE_FILES), metavar="NAME"
    )
    to: Path | None = option(None, f"destination folder (default: NAME, or weights for networks, {DATA_FOLDER_HELP})")
    source: Path | None = option(
        None, "local folder to copy from instead, with the same checks", "--from", metavar="FOLDER"
    )
    base_url: str | None = option(None, "URL of a mirror, without the file names", metavar="URL")

    def __post_init__(self) -> None:
        if self.source is not None and self.base_url is not None:
            raise UserError("--from and --base-url: only one is allowed; give the one that has the files")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.fetch") -> int:
    """Run the command and return its exit status."""
    return command(Fetch, fetch_all, argv, prog)


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

    Existing files with the right SHA-256 and complete folders are not fetched again.

    Args:
        to: Destination folder; None: the default folder.
        source: Local folder to copy from instead.
        base_url: URL of a mirror, without the file names.
        pause: Seconds between two attempts; doubled after each attempt without a new byte.

    Raises:
        UserError: If a file cannot be fetched or has a wrong SHA-256.
    """
    if to is None:
        to = default_root("weights" if name.startswith("resnet") else name)
    return [_fetch_file(file, Path(to), source, base_url, pause) for file in files[name]]


def _fetch_file(remote: RemoteFile, to: Path, source: Path | None, base_url: str | None, pause: float) -> Path:
    final = to / remote.result
    if _is_fetched(final, remote):
        return final
    if base_url is not None:
        remote = replace(remote, url=f"{base_url.rstrip('/')}/{remote.file}")
    with _one_process(final):
        if _is_fetched(final, remote):  # by another process
            return final
        if source is not None:
            _install(_find_local(source, remote), final, remote)
            return final
        part = final.parent / f"{remote.file}.part"
        download(remote, part, pause)
        if remote.unpack:
            _install_part(part, final, remote)
        else:
            part.replace(final)
    return final


def _is_fetched(final: Path, remote: RemoteFile) -> bool:
    """Return whether the result exists. Raises UserError if something else has its name."""
    if not os.path.lexists(final):
        return False
    problem = _difference(final, remote)
    if problem:
        raise UserError(f"{final}: {problem}; move it away and fetch again")
    return True


def _difference(final: Path, remote: RemoteFile) -> str:
    """Describe how an existing file or folder differs from what would be fetched; empty if it does not."""
    if remote.unpack == "tar":
        if not final.is_dir():
            return "not a folder, which the archive has"
        if not any(final.iterdir()):
            return "the existing folder is empty"
        wrong = (name for name, md5 in remote.contents.items() if not _has_md5(final / name, md5))
        return next((f"the existing folder has no {name}, or a wrong one" for name in wrong), "")
    expected = remote.content_sha256 or remote.sha256
    if not final.is_file():
        return "not a file"
    return "" if sha256_of(final) == expected else f"the existing file has another SHA-256 than {expected}"


def _has_md5(path: Path, md5: str) -> bool:
    """Return whether a file has this MD5; if none is known, whether the path exists."""
    if not md5 or not path.is_file():
        return not md5 and path.exists()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


@contextmanager
def _one_process(final: Path) -> Iterator[None]:
    """Wait until no other process fetches this file."""
    from common.executor import claim_file

    lock, wait = final.parent / f".{final.name}.lock", False
    while True:
        with claim_file(lock, wait) as mine:
            if mine:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)  # while it is locked: a process that waits locks a new file
                return
        print(f"{final}: another process fetches it; waiting", file=sys.stderr, flush=True)
        wait = True


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


class Interrupted(Exception):
    """A download ended early, for a reason that may pass.

    Args:
        attempts: How often in a row the reason is accepted.
        seconds: Time to wait that the server asks for.
    """

    def __init__(self, reason: object, attempts: int = ATTEMPTS, seconds: float = 0.0) -> None:
        super().__init__(str(reason)[:200] or type(reason).__name__)
        self.attempts, self.seconds = attempts, seconds


def download(remote: RemoteFile, part: Path, pause: float = 1.0) -> None:
    """Download a file to `part`, resuming from its present content, and verify the SHA-256.

    Raises UserError if the server does not answer or sends wrong content. A wrong file is removed; an incomplete one is kept
    for the next call.
    """
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
    """Request the file until it is complete, or several times without a new byte. The checksum detects a file that is too long."""
    failures, most = 0, _size(part)
    while remote.size is None or _size(part) < remote.size:
        try:
            return _download_rest(remote, part, _size(part))
        except Interrupted as error:
            failures, most = (0, _size(part)) if _size(part) > most else (failures + 1, most)
            if failures >= error.attempts or error.seconds > LONGEST_PAUSE:
                wait = f" in {error.seconds:.0f} s" if error.seconds else ""
                raise UserError(
                    f"{remote.url}: download stopped after {_size(part)} bytes ({error}); repeat the command{wait} to resume, or "
                    "give a local copy with --from FOLDER"
                ) from error
            time.sleep(max(error.seconds, min(pause * 2 ** max(failures - 1, 0), LONGEST_PAUSE)))


def _download_rest(remote: RemoteFile, part: Path, offset: int) -> None:
    """Request the bytes from `offset` on and append them to `part`. Raises Interrupted if the file is not complete then."""
    response = _request(remote.url, offset)
    if response is None:  # nothing is left to download; the checksum is verified next
        return
    with response:
        resumed, length = response.status == HTTPStatus.PARTIAL_CONTENT, response.length
        written, total = (offset, None) if resumed else (0, length)
        if resumed:
            given, _, end = response.headers.get("Content-Range", "").partition("/")
            if not given.startswith(f"bytes {offset}-"):
                part.unlink(missing_ok=True)
                raise Interrupted("the server sent another part of the file than requested")
            total = int(end) if end.isdecimal() and len(end) < 20 else None
        _check_size(remote, total, response)
        limit = SIZE_LIMIT if remote.size is None else remote.size
        bar = tqdm(
            total=remote.size or total, initial=written, desc=remote.file, unit="B", unit_scale=True, disable=None
        )
        with bar, naming(part), open(part, "ab" if resumed else "wb") as file:
            while written <= limit and length != 0 and (block := _read(response, length)):
                file.write(block)
                file.flush()  # on disk before the next block is awaited: an interruption loses nothing
                written += len(block)
                length = None if length is None else length - len(block)
                bar.update(len(block))
            os.fsync(file.fileno())
    if written > limit:  # the checksum is wrong
        return
    expected, is_complete = remote.size or total or 0, length == 0 or response.chunked
    if length or (written < expected and not is_complete):
        raise Interrupted("the connection was closed")
    if written < expected and not resumed:
        part.unlink()
        _check_size(remote, written, response)
    if written < expected:
        raise Interrupted("the server sent only a part of the rest")


def _check_size(remote: RemoteFile, total: int | None, response: http.client.HTTPResponse) -> None:
    """Raise UserError if the complete file of the server has another size than the requested one, such as a sign-in page."""
    if total is not None and (total > SIZE_LIMIT if remote.size is None else total != remote.size):
        kind, expected = response.headers.get_content_type(), remote.size or f"at most {SIZE_LIMIT}"
        raise UserError(
            f"{remote.url}: the server sends a complete file of {total} bytes ({kind}), expected {expected}; {MIRROR}"
        )


def _read(response: http.client.HTTPResponse, length: int | None) -> bytes:
    """Return the bytes that have arrived, at most BLOCK; empty at the end."""
    try:
        return response.read1(BLOCK if length is None else min(BLOCK, length))
    except http.client.IncompleteRead as error:
        raise Interrupted("the connection was closed") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Interrupted(error) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https that follows no redirections: urllib's reads their content without a limit."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _request(url: str, offset: int) -> http.client.HTTPResponse | None:
    """Request a file from `offset` on, following redirects; None if it has no more bytes.

    Raises Interrupted if it may be available later, and UserError if not.
    """
    opener, first, target = _opener(), url, ""
    headers = {"User-Agent": "compression-papers"} | ({"Range": f"bytes={offset}-"} if offset else {})
    for _ in range(REDIRECTS + 1):
        try:
            url = urljoin(url, target)
            if not url.lower().startswith(("http://", "https://")):
                raise UserError(f"{url[:200]}: unsupported URL; give one that begins with http:// or https://")
            return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return None
            target, problem = error.headers.get("Location", ""), f"HTTP error {error.code} {error.reason}"[:200]
            if error.code in BUSY:
                raise Interrupted(
                    problem, BUSY_ATTEMPTS, _seconds_to_wait(error.headers.get("Retry-After", ""))
                ) from error
            if error.code not in REDIRECTED or not target:
                raise UserError(f"{first}: {problem}; {MIRROR}") from error
        except (http.client.InvalidURL, UnicodeError) as error:
            raise _invalid_url(first, target or url, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(getattr(error, "reason", error)) from error
        except ValueError as error:
            raise _invalid_url(first, target or url, error) from error
    raise UserError(f"{first}: more than {REDIRECTS} redirections; {MIRROR}")


def _invalid_url(first: str, url: str, error: Exception) -> UserError:
    return UserError(f"{first}: invalid URL {url[:200]!r} ({str(error)[:200]}); {MIRROR}")


def _seconds_to_wait(text: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 if it is missing or damaged."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, LookupError, OverflowError):
        return 0.0


def _size(part: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    return part.stat().st_size if part.exists() else 0


def _install(archive: Path, final: Path, remote: RemoteFile) -> None:
    """Unpack or copy a file to its final path; the file itself is kept."""
    if remote.unpack == "gz":
        unpack_gz(archive, final, remote.content_size, remote.content_sha256)
    elif remote.unpack == "tar":
        unpack_tar(archive, final)
    else:
        with naming(final), atomic_file(final) as copy, open(archive, "rb") as source, open(copy, "wb") as file:
            shutil.copyfileobj(source, file)


def _install_part(part: Path, final: Path, remote: RemoteFile) -> None:
    """Unpack a downloaded file and remove it; it is kept if the disk is full, and removed if it is not what was expected."""
    try:
        _install(part, final, remote)
    except UserError:
        part.unlink()
        raise
    part.unlink()


if __name__ == "__main__":
    sys.exit(main())
