"""How much of one wide hidden layer is needed? Three error metrics and the accuracies against its width k.

The paper's first experiment (arXiv 2108.00065, section 5): 784-4096-10, ReLU, 10,000 pruning pictures.

    python -m common.train --arch fc4096 --dataset mnist --dataset-dir data/mnist --epochs 4 --learning-rate 0.05 --out runs/mnist/fc4096
    python -m model_preserving_id.paper.experiments.wide --checkpoint runs/mnist/fc4096/model.safetensors --dataset-dir data/mnist

Z^T Z is summed once and factored once: its nested pivots serve every k, and the next layer's weight at width k needs T only
times that weight. Leaves wide.json, metrics.png and accuracy.png.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import Wide
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.wide"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns an exit status."""

    def body(given: Wide) -> None:
        from model_preserving_id.paper.experiments.one_layer import run

        run(given, cli.command_line(PROG, argv))

    return command(Wide, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
