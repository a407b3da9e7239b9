"""Command of stage 2: ``python -m rewarded_metapruning.search``, the ``search.py`` of the original code."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import SearchWidths, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(SearchWidths, _search, argv, "search.py")


def _search(settings: SearchWidths) -> None:
    from rewarded_metapruning.search_stage import search_command

    search_command(settings)


if __name__ == "__main__":
    sys.exit(main())
