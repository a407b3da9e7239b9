"""Names of the files of results that hold one network each."""

import re
from pathlib import Path


def network_file(folder: Path | str, prefix: str, name: str) -> Path:
    """Return the file of a network: its name in the table, in small letters and digits, after the prefix of the table's files."""
    return Path(folder) / f"{prefix}{re.sub(r'[^a-z0-9]+', '_', name.lower())}.json"
