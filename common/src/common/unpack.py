"""Archives of others, unpacked whole or not at all and never outside of their place."""

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
    """The content of a .gz file (or a plain file) as the file `final`, if its SHA-256 is right.

    size: bytes of the content; no more are read. Raises UserError for a damaged archive and for other content.
    """
    opener = gzip.open if archive.name.endswith((".gz", ".gz.part")) else open
    try:
        with opener(archive, "rb") as file:
            content = file.read(size + 1)
    except DAMAGED as error:
        raise UserError(f"{archive}: not a whole gzip file ({error}); get it again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{archive}: holds something else than {final.name} (its SHA-256 differs); get it again")
    write_bytes(final, content)


def unpack_tar(archive: Path, final: Path) -> None:
    """The archive's folder `final.name` in the place `final`.

    Raises UserError for a damaged archive, one without that folder, and one that would write outside of its place.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("unpacking safely needs Python 3.11.4 or newer; this is an older 3.11: update it")
    beside = final.parent / f".{final.name}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)  # of an interrupted call
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(beside, filter="data")
        if not (beside / final.name).is_dir():
            raise UserError(f"{archive}: has no folder {final.name}; get it again")
        (beside / final.name).rename(final)
    except (tarfile.TarError, *DAMAGED) as error:
        raise UserError(f"{archive}: cannot be unpacked safely ({error}); get it again") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
