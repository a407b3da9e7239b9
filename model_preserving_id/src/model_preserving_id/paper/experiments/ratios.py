"""Compare ID with PCA, LRank, ALDS and filter selection by L1 norm, at equal numbers of parameters.

The original repository's ComparisonsNet.ipynb and LRankPlusID.ipynb. Without fine-tuning, each method keeps the same fraction of
the parameters: ID, PCA, LRank, ALDS, filters with the largest L1 norm, and PCA and LRank after ID has pruned to 50 % of the MACs.

    python -m model_preserving_id.paper.experiments.ratios --arch resnet20 --weights data/weights/resnet20-12fca82f.th \\
        --dataset cifar10 --dataset-dir data/cifar10

Writes ratios.json and ratios.png. For a ratio that a method cannot meet, the file contains the error message.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import ParameterRatios
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.ratios"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""

    def body(given: ParameterRatios) -> None:
        from model_preserving_id.paper.experiments.parameter_ratios import run

        run(given, cli.command_line(PROG, argv))

    return command(ParameterRatios, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
