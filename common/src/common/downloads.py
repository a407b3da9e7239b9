"""What `python -m common.fetch` can get, and the folder in which data sets are looked for.

The table is ``fetch.json``: the files of each name, with sizes and SHA-256 as published. The names of the weights carry the
first eight digits of their SHA-256 (resnet20 and resnet56 were checked against the files themselves, as were MNIST's
unpacked files).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """One file at one address.

    Attributes:
        size: In bytes; None where it is not known.
        result: Path below the destination of what it becomes: a file, or the folder in an archive.
        unpack: "tar", "gz", or "" for a file that stays as it is.
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


ITEMS: dict[str, tuple[Item, ...]] = {
    name: tuple(Item(**row) for row in rows)
    for name, rows in json.loads(Path(__file__).with_name("fetch.json").read_text(encoding="utf-8")).items()
}


def default_root(name: str) -> Path:
    """Folder of a data set if none is given: $COMPRESSION_PAPERS_DATA/NAME, else data/NAME."""
    return Path(os.environ.get("COMPRESSION_PAPERS_DATA") or "data") / name
