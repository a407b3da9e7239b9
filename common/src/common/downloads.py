"""Files that ``python -m common.fetch`` downloads, and the data folder that all packages share.

``fetch.json`` lists the files of each name, with sizes and SHA-256 as published. The file names of the weights contain the
first eight digits of their SHA-256. (The SHA-256 of resnet20, resnet56 and MNIST's unpacked files were checked with the files.)
"""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        size: Size in bytes; None if unknown.
        result: Path of the resulting file or unpacked folder, relative to the destination.
        unpack: "tar", "gz", or "" for a file that is not unpacked.
        content_size: Size in bytes of an unpacked .gz file.
        contents: {file in an unpacked folder: MD5, or "" if that was not published}.
    """

    url: str
    sha256: str
    size: int | None
    result: str
    unpack: str = ""
    content_size: int = 0
    content_sha256: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


REMOTE_FILES: dict[str, tuple[RemoteFile, ...]] = {
    name: tuple(RemoteFile(**row) for row in rows)
    for name, rows in json.loads(Path(__file__).with_name("fetch.json").read_text(encoding="utf-8")).items()
}


DATA_FOLDER = "COMPRESSION_PAPERS_DATA"  # environment variable
PROJECT = Path(__file__).resolve().parents[3]  # the folder of a checkout


def default_root(name: str) -> Path:
    """Return the default folder of a data set, or of "weights": NAME in the data folder that all packages share.

    That is $COMPRESSION_PAPERS_DATA. If it is not set: data in the current folder if NAME is there; in a checkout, also in the
    folder of one package, data in the checkout's folder; elsewhere, data in the current folder.
    """
    shared, here = os.environ.get(DATA_FOLDER), Path("data", name)
    if shared:
        return Path(shared).expanduser() / name
    in_checkout = (PROJECT / "constraints.txt").is_file() and Path.cwd().is_relative_to(PROJECT)
    return Path(os.path.relpath(PROJECT / here)) if in_checkout and not here.exists() else here


def fetch_command(name: str, to: Path | str) -> str:
    """Return the command that downloads these files, as it can be typed."""
    return f"`python -m common.fetch {name} --to {shlex.quote(str(to))}`"


def advise_weights(file: Path | str, arch: str | None = None, dataset: str = "cifar10") -> str:
    """Say how to get a missing file of trained weights, if it can be downloaded, and under which name.

    Args:
        file: The missing file.
        arch: The architecture that the weights are for; None if it is not known.
        dataset: The data set that the network is used with; the weights are trained on CIFAR-10.
    """
    file, weights = Path(file), {name: files[0].result for name, files in REMOTE_FILES.items() if not files[0].unpack}
    named = next((name for name, result in weights.items() if result == file.name), None)
    if named and arch in (named, None):
        return f"download it with {fetch_command(named, file.parent)}"
    if arch in weights and dataset == "cifar10":
        return f"{fetch_command(arch, file.parent)} downloads {file.parent / weights[arch]}, or give another file"
    return "give an existing file"
