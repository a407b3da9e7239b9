"""Compare encoding vectors found by the search with random ones, at small scale; write results/small-*.json.

python -m rewarded_metapruning.paper.search_vs_random --dataset-dir data/cifar10 --seeds 0 1 2 3 4
"""

import sys
from collections.abc import Sequence

from common.cli import command_line
from common.settings import command
from rewarded_metapruning.paper.settings import SearchVsRandom
from rewarded_metapruning.settings import PACKAGE

PROG = "python -m rewarded_metapruning.paper.search_vs_random"


def main(argv: Sequence[str] | None = None) -> int:
    def run(settings: SearchVsRandom) -> None:
        from rewarded_metapruning.paper.seeded_comparison import run_seeds

        run_seeds(settings, command_line(PROG, argv))

    return command(SearchVsRandom, run, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
