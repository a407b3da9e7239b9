"""The README's drawings of the method as a command: ``python -m rewarded_metapruning.paper.diagrams``."""

import sys
from collections.abc import Sequence

from common.settings import command
from rewarded_metapruning.paper.settings import Diagrams
from rewarded_metapruning.settings import PACKAGE


def main(argv: Sequence[str] | None = None) -> int:
    return command(Diagrams, _draw, argv, "python -m rewarded_metapruning.paper.diagrams", PACKAGE)


def _draw(settings: Diagrams) -> None:
    from rewarded_metapruning.paper.figures import draw_all

    draw_all(settings)


if __name__ == "__main__":
    sys.exit(main())
