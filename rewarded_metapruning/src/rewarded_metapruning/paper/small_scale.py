"""The comparison at small scale as a command.

python -m rewarded_metapruning.paper.small_scale --dataset-dir data/cifar10 --seeds 0 1 2 3 4
"""

import sys
from collections.abc import Sequence

from common.cli import command_line
from common.settings import command
from rewarded_metapruning.paper.settings import SmallScale
from rewarded_metapruning.settings import PACKAGE

PROG = "python -m rewarded_metapruning.paper.small_scale"


def main(argv: Sequence[str] | None = None) -> int:
    def compare(settings: SmallScale) -> None:
        from rewarded_metapruning.paper.comparison import compare

        compare(settings, command_line(PROG, argv))

    return command(SmallScale, compare, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
