"""Safe unpacking of untrusted archives: completely or not at all, and never outside the destination."""

import gzip
import hashlib
import shutil
import tarfile
import zlib
from pathlib import Path

from common.atomic import write_bytes
from common.errors import UserError

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


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
    write_bytes(final, content)


def unpack_tar(archive: Path, final: Path) -> None:
    """Unpack the archive's folder `final.name` to `final`.

    Raises UserError if the archive is damaged, lacks that folder, or would write outside the destination.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("Python 3.11: a version older than 3.11.4 cannot unpack archives safely; update Python")
    temporary = final.parent / f".{final.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of an interrupted call
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        if not (temporary / final.name).is_dir():
            raise UserError(f"{archive}: no folder {final.name} in the archive; download it again")
        (temporary / final.name).rename(final)
    except (tarfile.TarError, *DAMAGED) as error:
        raise UserError(f"{archive}: cannot be unpacked safely ({error}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
