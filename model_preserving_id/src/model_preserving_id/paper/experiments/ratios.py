"""ID beside other ways to make a network smaller, over keep ratios of the parameters: PCA, LRank, filters by norm.

The original repository's ComparisonsNet.ipynb and LRankPlusID.ipynb. Each method is given the same ratio, without fine-tuning:
ID alone, PCA alone, LRank alone, filters with the largest L1 norm, and PCA and LRank on top of an ID network that has half of
the MACs. ALDS (torchprune), which the original compares with, has no kept implementation on a package index: it is left out.

    python -m model_preserving_id.paper.experiments.ratios --arch resnet20 --weights data/weights/resnet20-12fca82f.th \\
        --dataset cifar10 --dataset-dir data/cifar10

Leaves ratios.json and ratios.png. A ratio that a method cannot meet has no point; its reason stands in the file.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import Ratios
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.ratios"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns an exit status."""

    def body(given: Ratios) -> None:
        from model_preserving_id.paper.experiments.comparison import run

        run(given, cli.command_line(PROG, argv))

    return command(Ratios, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
