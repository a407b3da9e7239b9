"""Draw the README's diagrams of the method: ``python -m rewarded_metapruning.paper.diagrams``."""

import sys
from collections.abc import Sequence

from common.settings import command
from rewarded_metapruning.paper.settings import DrawDiagrams
from rewarded_metapruning.settings import PACKAGE


def main(argv: Sequence[str] | None = None) -> int:
    return command(DrawDiagrams, _draw, argv, "python -m rewarded_metapruning.paper.diagrams", PACKAGE)


def _draw(settings: DrawDiagrams) -> None:
    from rewarded_metapruning.paper.readme_figures import draw_diagrams

    draw_diagrams(settings)


if __name__ == "__main__":
    sys.exit(main())
