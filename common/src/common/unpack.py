"""Safe unpacking of untrusted archives: completely or not at all, and never outside the destination."""

import errno
import gzip
import hashlib
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from common.atomic import naming, write_bytes
from common.errors import UserError

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
# What tarfile raises for damaged headers, in addition to its own errors.
DAMAGED_TAR = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, *DAMAGED)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
LARGEST_RATIO, SLACK = 4, 1 << 24  # an archive of images unpacks to at most 4 times its size and 16 MiB
DEEPEST = 16  # folders in each other


def unpack_gz(archive: Path, final: Path, size: int, sha256: str) -> None:
    """Unpack a .gz file (or copy a plain file) to `final` if the content's SHA-256 matches.

    At most `size` + 1 bytes of the content are read. Raises UserError for a damaged archive or other content.
    """
    opener = gzip.open if archive.name.endswith((".gz", ".gz.part")) else open
    try:
        with opener(archive, "rb") as file:
            content = file.read(size + 1)
    except DAMAGED as error:
        raise UserError(f"{archive}: damaged gzip file ({error}); download it again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{archive}: the content is not {final.name} (wrong SHA-256); download it again")
    with naming(final):
        write_bytes(final, content)


def unpack_tar(archive: Path, final: Path) -> None:
    """Unpack the files and folders in the archive's folder `final.name` to `final`; files next to that folder are skipped.

    Raises UserError if the archive (.tar.gz) is damaged, lacks that folder, unpacks to far more than its size, has links or
    special files, or would write outside the destination.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("Python 3.11: a version older than 3.11.4 cannot unpack archives safely; update Python")
    temporary = final.parent / f".{final.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of an interrupted call
    try:
        with (
            _Limited(archive) as content,
            tarfile.open(fileobj=content, mode="r|") as tar,
        ):  # "|": members cannot refer back
            tar.extractall(temporary, filter=lambda member, place: _checked(member, place, final.name, content.left))
        if not (temporary / final.name).is_dir():
            raise UserError(f"{archive}: no folder {final.name} in the archive; download it again")
        (temporary / final.name).rename(final)
    except DAMAGED_TAR as error:
        raise UserError(f"{archive}: cannot be unpacked safely ({str(error)[:200]}); download it again") from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            with naming(temporary):
                raise
        raise UserError(f"{archive}: cannot be unpacked safely ({str(error)[:200]}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Limited(gzip.GzipFile):
    """The content of an archive. Raises ReadError if it is far larger than the archive; `left`: bytes that may still be read."""

    def __init__(self, archive: Path) -> None:
        super().__init__(archive)
        self.left = LARGEST_RATIO * archive.stat().st_size + SLACK

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self.left -= len(block)
        if self.left < 0:
            raise tarfile.ReadError("it unpacks to far more than its size")
        return block


def _checked(member: tarfile.TarInfo, place: str, folder: str, left: int) -> tarfile.TarInfo | None:
    """Return a member that may be unpacked; None if it is not in the folder. Raises TarError for an unsafe one."""
    parts = PurePosixPath(member.name).parts
    if len(parts) > DEEPEST or ".." in parts:
        raise tarfile.ReadError(f"member {member.name[:80]!r} is in more than {DEEPEST} folders, or in '..'")
    if not 0 <= member.size <= left:
        raise tarfile.ReadError(f"member {member.name[:80]!r} has {member.size} bytes, more than the archive can have")
    safe = tarfile.data_filter(member, place)
    if parts[:1] != (folder,):
        return None
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise tarfile.ReadError(f"member {member.name[:80]!r} is neither a file nor a folder")
    return safe.replace(mtime=None, deep=False)  # type: ignore[arg-type]
