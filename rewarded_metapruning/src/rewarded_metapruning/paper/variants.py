"""Compare the paper's variant of the method with the extended one.

python -m rewarded_metapruning.paper.variants --dataset digits --seeds 0 1 2
"""

import sys
from collections.abc import Sequence

from common.cli import command_line
from common.settings import command
from rewarded_metapruning.paper.settings import CompareVariants
from rewarded_metapruning.settings import PACKAGE

PROG = "python -m rewarded_metapruning.paper.variants"


def main(argv: Sequence[str] | None = None) -> int:
    def run(settings: CompareVariants) -> None:
        from rewarded_metapruning.paper.seeded_variants import run_seeds

        run_seeds(settings, command_line(PROG, argv))

    return command(CompareVariants, run, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
