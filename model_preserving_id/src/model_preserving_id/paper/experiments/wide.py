"""Measure three errors of the decomposition and the accuracy at several widths k of one wide hidden layer.

The paper's first experiment (arXiv 2108.00065, section 5): 784-4096-10, ReLU, on Fashion-MNIST, 10,000 calibration images.

    python -m common.train --arch fc4096 --dataset fashion-mnist --epochs 30 --learning-rate 0.05 --out runs/fashion-mnist/fc4096
    python -m model_preserving_id.paper.experiments.wide --checkpoint runs/fashion-mnist/fc4096/model.safetensors

MNIST: add ``--dataset mnist`` to both, and use another folder.

Z^T Z is computed and factored once, since the pivots are nested; T is only needed as a product with the next layer's weight.
Writes wide.json, metrics.png and accuracy.png.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import WideLayer
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.wide"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""

    def body(given: WideLayer) -> None:
        from model_preserving_id.paper.experiments.wide_layer import run

        run(given, cli.command_line(PROG, argv))

    return command(WideLayer, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
