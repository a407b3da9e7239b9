"""The cost of an encoding vector as a command: ``python -m rewarded_metapruning.cost --arch resnet50 --nev published``."""

import sys
from collections.abc import Sequence

from common.settings import command
from rewarded_metapruning.settings import PACKAGE, Cost


def main(argv: Sequence[str] | None = None) -> int:
    return command(Cost, _show, argv, "python -m rewarded_metapruning.cost", PACKAGE)


def _show(settings: Cost) -> None:
    from rewarded_metapruning.closed_form import show

    show(settings)


if __name__ == "__main__":
    sys.exit(main())
