"""Stage 2 as a command: ``python -m rewarded_metapruning.search``."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import Search, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(Search, _search, argv, "search.py")


def _search(settings: Search) -> None:
    from rewarded_metapruning.searching import search_command

    search_command(settings)


if __name__ == "__main__":
    sys.exit(main())
