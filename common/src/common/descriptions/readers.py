"""Find the description of a file by its content.

A package describes its own formats by an entry point of the group ``compression_papers.descriptions``: a function ``(path,
content) -> Description | None``, where content is that of a JSON file and None for other files. It returns None for a file
of another form, raises UserError for a damaged one, and should not import torch.
"""

import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from common.checkpoint_header import FOREIGN_INDEX, HEADER_LIMIT
from common.descriptions import records
from common.descriptions.description import Description, Table
from common.errors import UserError
from common.runs import read_json

GROUP = "compression_papers.descriptions"
Describe = Callable[[Path, Any], Description | None]
TORCH_FILES = (".pth", ".pt", ".th", ".tar", ".t7", ".tp", ".bin", ".ckpt")
TEXTS = {".md": "text", ".log": "log", ".txt": "text", ".err": "log"}
FOR_OTHER_PROGRAMS = {".html": "page: open it in a browser", ".png": "image", ".svg": "image", ".pdf": "document"}
LISTED = 12
ENTRIES_LIMIT = 100_000


@cache
def installed_descriptions() -> tuple[Describe, ...]:
    """Return the functions of installed packages that describe their formats."""
    return tuple(point.load() for point in entry_points(group=GROUP))


def describe(path: Path) -> Description:
    """Describe a file. Raises UserError if it is missing, damaged, or of no known format."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(16)
    content = read_json(path) if _is_json(path, start) else None
    return describe_registered(path, content) or _describe(path, content, start)


def describe_registered(path: Path, content: Any) -> Description | None:
    """Describe a file in a format of an installed package; None for others. Raises UserError if it is damaged."""
    return next((found for function in installed_descriptions() if (found := function(path, content))), None)


def _is_json(path: Path, start: bytes) -> bool:
    """Return whether a file is JSON: by its suffix or, like the records of a campaign's jobs, by its beginning."""
    return path.suffix == ".json" or (not path.suffix and start.lstrip()[:1] in (b"{", b"["))


def _describe(path: Path, content: Any, start: bytes) -> Description:
    from common.descriptions import networks

    suffix = path.suffix.lower()
    if FOREIGN_INDEX.search(path.name) and isinstance(content, dict) and "weight_map" in content:
        return networks.describe_safetensors(path)
    if _is_json(path, start):
        return records.describe_json(path, content)
    if suffix == ".safetensors" or (
        len(start) > 9 and int.from_bytes(start[:8], "little") <= HEADER_LIMIT and start[8:9] == b"{"
    ):
        return networks.describe_safetensors(path)
    if suffix == ".onnx":
        return networks.describe_onnx(path)
    if start[:4] == b"PK\x03\x04":
        return _describe_zip(path)
    if suffix in TORCH_FILES:
        return networks.describe_state_dict(path)
    if suffix == ".csv":
        return records.describe_csv(path)
    if suffix == ".jsonl":
        return records.describe_lines(path)
    if suffix == ".toml":
        return records.describe_plan(path)
    if suffix in TEXTS or not suffix:
        return _describe_text(path, start)
    if suffix in FOR_OTHER_PROGRAMS:
        return Description(f"{FOR_OTHER_PROGRAMS[suffix]}, {path.stat().st_size:,} bytes")
    raise UserError(
        f"{path}: not a file that this project writes; known are networks, records (.json, .csv), plans and logs"
    )


def _describe_text(path: Path, start: bytes) -> Description:
    if b"\0" in start:
        raise UserError(f"{path}: neither text nor a file that this project writes")
    return records.describe_text(path, TEXTS.get(path.suffix.lower(), "text"))


def _describe_zip(path: Path) -> Description:
    """Describe a ZIP archive: a program of torch.export, a file of torch.save, or a piece of a campaign."""
    from common.descriptions import networks

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged archive: {error}") from error
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "models/model.json" in names:
        return networks.describe_pt2(path)
    if "data.pkl" in names:
        return networks.describe_state_dict(path)
    rows = [(entry.filename, f"{entry.file_size:,}") for entry in entries[:LISTED]]
    more = f" (first {LISTED} of {len(entries):,})" if len(entries) > LISTED else ""
    facts = [("unpack it with", f"python -m common.campaign merge {path} --into FOLDER")]
    return Description(
        f"archive, {path.stat().st_size:,} bytes", facts, tables=[Table(f"files{more}", ("name", "bytes"), rows)]
    )
