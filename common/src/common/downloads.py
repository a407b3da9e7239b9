"""Files that ``python -m common.fetch`` downloads, and the default folders of data sets.

``fetch.json`` lists the files of each name, with sizes and SHA-256 as published. The file names of the weights contain the
first eight digits of their SHA-256. (The SHA-256 of resnet20, resnet56 and MNIST's unpacked files were checked with the files.)
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        size: Size in bytes; None if unknown.
        result: Path of the resulting file or unpacked folder, relative to the destination.
        unpack: "tar", "gz", or "" for a file that is not unpacked.
        content_size: Size in bytes of an unpacked .gz file.
    """

    url: str
    sha256: str
    size: int | None
    result: str
    unpack: str = ""
    content_size: int = 0
    content_sha256: str = ""

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


REMOTE_FILES: dict[str, tuple[RemoteFile, ...]] = {
    name: tuple(RemoteFile(**row) for row in rows)
    for name, rows in json.loads(Path(__file__).with_name("fetch.json").read_text(encoding="utf-8")).items()
}


def default_root(name: str) -> Path:
    """Return the default folder of a data set: $COMPRESSION_PAPERS_DATA/NAME, or data/NAME if the variable is not set."""
    return Path(os.environ.get("COMPRESSION_PAPERS_DATA") or "data") / name
