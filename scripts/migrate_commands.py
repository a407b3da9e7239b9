"""Stored commands that name modules of before, by today's names: ``python scripts/migrate_commands.py [FILE_OR_FOLDER ...]``.

Without arguments, all result files of the repository. A second call changes nothing. It stays until the campaign has ended,
for results that arrive from an older commit.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAPER = {  # package: its modules that are in paper/ now
    "common": "tables",
    "compare": "picture tables",
    "decore": "tables",
    "deep_compression": "choice cifar10 figures mnist tables",
    "model_preserving_id": "diagrams experiments.missing_class experiments.ratios experiments.volume experiments.wide tables",
    "redundancy_graph": "tables",
    "rewarded_metapruning": "diagrams small_scale tables",
}
MOVED = {f"{package}.{name}": f"{package}.paper.{name}" for package, names in PAPER.items() for name in names.split()}
MOVED["common.results"] = "common.reporting.results"
CALL = re.compile(rf"(?<=-m )({'|'.join(map(re.escape, MOVED))})(?![\w.])")


def migrated(text: str) -> str:
    """The text with every ``-m MODULE`` of before as it is called now."""
    return CALL.sub(lambda match: MOVED[match[1]], text)


def main(argv: Sequence[str]) -> None:
    """Rewrite files, and all JSON files in folders, and print which."""
    places = [Path(word) for word in argv] or sorted(ROOT.glob("[!.]*/results"))
    for file in sorted(file for place in places for file in (place.rglob("*.json") if place.is_dir() else [place])):
        text = file.read_text(encoding="utf-8")
        if (new := migrated(text)) != text:
            file.write_text(new, encoding="utf-8")
            print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
