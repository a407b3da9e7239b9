"""The paper's experiments beyond its tables, each a command that leaves a result file and a picture."""

from pathlib import Path

from common.errors import UserError


def result_folder(path: Path | str) -> Path:
    """Where an experiment leaves its files, not made yet. Raises UserError, before anything is computed, if a file is in the way."""
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"--out {path}: {place} is a file; name a folder")
    return Path(path)
