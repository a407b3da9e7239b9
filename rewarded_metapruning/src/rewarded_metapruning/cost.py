"""Print the cost of an encoding vector: ``python -m rewarded_metapruning.cost --arch resnet50 --nev published``."""

import sys
from collections.abc import Sequence

from common.settings import command
from rewarded_metapruning.settings import PACKAGE, CountCost


def main(argv: Sequence[str] | None = None) -> int:
    return command(CountCost, _print_cost, argv, "python -m rewarded_metapruning.cost", PACKAGE)


def _print_cost(settings: CountCost) -> None:
    from rewarded_metapruning.closed_form import print_cost

    print_cost(settings)


if __name__ == "__main__":
    sys.exit(main())
