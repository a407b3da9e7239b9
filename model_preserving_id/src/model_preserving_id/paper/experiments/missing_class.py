"""Measure the accuracy of every class during iterative pruning, if one class is missing from the calibration images.

The original repository's Iter-PerClass-ClassRemoved-Figure.ipynb: k = 0.9, 1000 images without class 0.

    python -m model_preserving_id.paper.experiments.missing_class --arch resnet20 --weights data/weights/resnet20-12fca82f.th \\
        --dataset cifar10 --dataset-dir data/cifar10 --without-class 0 --target-macs 0.3

Writes missing_class.json, per_class.png and agreement.png.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import MissingClass
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.missing_class"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""

    def body(given: MissingClass) -> None:
        from model_preserving_id.paper.experiments.class_accuracy import run

        run(given, cli.command_line(PROG, argv))

    return command(MissingClass, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
