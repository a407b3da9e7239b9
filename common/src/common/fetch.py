"""Get a public data set or trained weights: `python -m common.fetch cifar10`, resumable and checked.

What can be fetched stands in one literal table. A file is downloaded to NAME.part, goes on from there after an
interruption, and takes its final name only after its SHA-256 was right. An archive is unpacked beside its final place
and takes its name whole.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import http
import http.client
import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from common.atomic import atomic_file
from common.errors import UserError
from common.settings import REQUIRED, command, option, settings

BLOCK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 3  # without a single new byte
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


@dataclass(frozen=True)
class Item:
    """One file at one address."""

    url: str
    sha256: str
    size: int | None  # bytes; None where it is not known
    result: str  # what it becomes below the destination: a file, or for an archive the folder in it
    unpack: str = ""  # "tar" or "gz"
    content_size: int = 0  # bytes of an unpacked .gz
    content_sha256: str = ""

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


def _idx_items(base: str, folder: str, rows: Sequence[tuple[str, int, str, int, str]]) -> tuple[Item, ...]:
    return tuple(
        Item(f"{base}{name}.gz", sha256, size, f"{folder}/raw/{name}", "gz", content_size, content_sha256)
        for name, size, sha256, content_size, content_sha256 in rows
    )


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_RESNETS = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"

# Sizes and SHA-256 as published for these files. The weights' names carry the first eight digits of their SHA-256
# (resnet20 and resnet56 were checked against the files themselves, as were MNIST's unpacked files).
ITEMS: dict[str, tuple[Item, ...]] = {
    "cifar10": (
        Item(
            _CIFAR + "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170_498_071,
            "cifar-10-batches-py",
            "tar",
        ),
    ),
    "cifar100": (
        Item(
            _CIFAR + "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            169_001_437,
            "cifar-100-python",
            "tar",
        ),
    ),
    "mnist": _idx_items(
        _MNIST,
        "MNIST",
        (
            (
                "train-images-idx3-ubyte",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                47_040_016,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                "train-labels-idx1-ubyte",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                60_008,
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                "t10k-images-idx3-ubyte",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                7_840_016,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                "t10k-labels-idx1-ubyte",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                10_008,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
    "fashion-mnist": _idx_items(
        _FASHION,
        "FashionMNIST",
        (
            (
                "train-images-idx3-ubyte",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            (
                "train-labels-idx1-ubyte",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                60_008,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            (
                "t10k-images-idx3-ubyte",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            (
                "t10k-labels-idx1-ubyte",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                10_008,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    ),
    "resnet20": (
        Item(
            _RESNETS + "resnet20-12fca82f.th",
            "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
            1_099_231,
            "resnet20-12fca82f.th",
        ),
    ),
    "resnet32": (
        Item(
            _RESNETS + "resnet32-d509ac18.th",
            "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
            None,
            "resnet32-d509ac18.th",
        ),
    ),
    "resnet44": (
        Item(
            _RESNETS + "resnet44-014dd654.th",
            "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
            None,
            "resnet44-014dd654.th",
        ),
    ),
    "resnet56": (
        Item(
            _RESNETS + "resnet56-4bfd9763.th",
            "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
            3_471_733,
            "resnet56-4bfd9763.th",
        ),
    ),
    "resnet110": (
        Item(
            _RESNETS + "resnet110-1d1ed7c2.th",
            "1d1ed7c27571399c1fef66969bc4df68d6a92c8e6c41170f444e120e5354e3bc",
            None,
            "resnet110-1d1ed7c2.th",
        ),
    ),
}


def default_root(name: str) -> Path:
    """Where data are looked for and fetched to if no folder is given: $COMPRESSION_PAPERS_DATA/NAME, else data/NAME."""
    return Path(os.environ.get("COMPRESSION_PAPERS_DATA") or "data") / name


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
        expected = item.content_sha256 if item.unpack == "gz" else item.sha256
        if final.is_file() and sha256_of(final) != expected:
            raise UserError(f"{final}: is there, but its SHA-256 is not {expected}; move it away and fetch again")
        return final
    folder = to if item.unpack == "tar" else final.parent
    folder.mkdir(parents=True, exist_ok=True)
    if source is not None:
        _fetch_local(_found_in(source, item), final, item)
        return final
    if base_url is not None:
        item = replace(item, url=f"{base_url.rstrip('/')}/{item.file}")
    part = folder / f"{item.file}.part"
    download(item, part, pause)
    _place(part, final, item)
    return final


def download(item: Item, part: Path, pause: float = 1.0) -> None:
    """The item's file under the name `part`, whole and with the right SHA-256, going on from what is there of it.

    Raises UserError if the address does not answer or what it sends is wrong; a wrong file is removed, an incomplete
    one kept for the next call.
    """
    if not item.url.startswith(("http://", "https://")):
        raise UserError(f"{item.url}: expected an address that begins with http:// or https://")
    resumed = part.exists() and part.stat().st_size > 0
    _download_all(item, part, pause)
    found = sha256_of(part)
    if found != item.sha256 and resumed:  # what was there before may have been another file's beginning
        part.unlink()
        _download_all(item, part, pause)
        found = sha256_of(part)
    if found != item.sha256:
        part.unlink()
        raise UserError(
            f"{item.url}: what came has the SHA-256 {found}, expected {item.sha256}; nothing was kept. Try again later "
            "or a mirror: --base-url"
        )


def _download_all(item: Item, part: Path, pause: float) -> None:
    """Ask until all is there; give up after some attempts without a new byte."""
    fruitless, reason = 0, "the connection was cut"
    while True:
        have = part.stat().st_size if part.exists() else 0
        if item.size is not None and have >= item.size:
            return  # too long is wrong, which the checksum will tell
        try:
            if _download_rest(item, part, have):
                return
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                if item.size is None:
                    return  # all of it is there; its checksum will tell
                part.unlink()
                raise UserError(
                    f"{item.url}: has {have} bytes or fewer instead of {item.size}; try a mirror: --base-url"
                ) from error
            raise UserError(
                f"{item.url}: the server says {error.code} {error.reason}; try a mirror: --base-url"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        now = part.stat().st_size if part.exists() else 0
        fruitless = 0 if now > have else fruitless + 1
        if fruitless == ATTEMPTS:
            raise UserError(
                f"{item.url}: {now} bytes came, then no more ({reason}); the same command goes on from there. "
                "Without a network: --from FOLDER"
            )
        time.sleep(pause)


def _download_rest(item: Item, part: Path, have: int) -> bool:
    """One request for the bytes from `have` on, appended to `part`; whether the file is complete."""
    request = urllib.request.Request(item.url, headers={"User-Agent": "compression-papers"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        written = start
        with (
            open(part, "ab" if goes_on else "wb") as file,
            tqdm(
                total=item.size or total, initial=start, desc=item.file, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                written += len(block)
                bar.update(len(block))
                if item.size is not None and written > item.size:
                    break
            file.flush()
            os.fsync(file.fileno())
    if item.size is not None and written > item.size:
        part.unlink()
        raise UserError(f"{item.url}: sends more than the {item.size} bytes of {item.file}; nothing was kept")
    return written >= (item.size or total or 0)


def _place(part: Path, final: Path, item: Item) -> None:
    """Give a downloaded and checked file its final form and name."""
    if item.unpack == "gz":
        _unpack_gz(part, final, item)
    elif item.unpack == "tar":
        unpack_tar(part, final)
    else:
        part.replace(final)
    part.unlink(missing_ok=True)


def _fetch_local(archive: Path, final: Path, item: Item) -> None:
    """The same from a local file, which stays where it is."""
    if item.unpack == "gz":  # may have been packed anew or not at all: what is in it must be right
        _unpack_gz(archive, final, item)
        return
    found = sha256_of(archive)
    if found != item.sha256:
        raise UserError(f"{archive}: its SHA-256 is {found}, expected {item.sha256}; get it again")
    if item.unpack == "tar":
        unpack_tar(archive, final)
    else:
        with atomic_file(final) as copy:
            shutil.copyfile(archive, copy)


def _unpack_gz(archive: Path, final: Path, item: Item) -> None:
    """The content of a .gz file (or a plain file) under its final name, if its SHA-256 is right."""
    reader = gzip.open if archive.name.endswith((".gz", ".gz.part")) else open
    with reader(archive, "rb") as packed, atomic_file(final) as plain:
        digest = hashlib.sha256()
        left = item.content_size
        try:
            with open(plain, "wb") as out:
                while left >= 0 and (block := packed.read(BLOCK)):
                    out.write(block)
                    digest.update(block)
                    left -= len(block)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{archive}: not a whole gzip file ({error}); get it again") from error
        if digest.hexdigest() != item.content_sha256:
            raise UserError(f"{archive}: holds something else than {item.result} (its SHA-256 differs); get it again")


def unpack_tar(archive: Path, final: Path) -> None:
    """The archive's folder `final.name` in the place `final`, whole or not at all.

    Raises UserError for a damaged archive, one without that folder, and one that would write outside of its place.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("unpacking safely needs Python 3.11.4 or newer; this is an older 3.11: update it")
    beside = final.parent / f".{final.name}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(beside, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{archive}: cannot be unpacked safely ({error}); get it again") from error
        if not (beside / final.name).is_dir():
            raise UserError(f"{archive}: has no folder {final.name}; get it again")
        (beside / final.name).rename(final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _found_in(source: Path, item: Item) -> Path:
    """The item's file somewhere usual below a local folder."""
    below = Path(item.result).parent
    names = [item.file, item.file.removesuffix(".gz")] if item.unpack == "gz" else [item.file]
    for folder in (source, source / below, source / below.name):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"{source}: has no {' or '.join(names)} (nor {source / below})")


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


if __name__ == "__main__":
    sys.exit(main())
