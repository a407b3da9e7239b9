"""A three-dimensional network loses channels: error of a predicted number against MACs, beside filters of small norm.

The original repository's atom3d-Pruning.ipynb: ligand binding affinity, Conv3d 32-64-128-256, FC 512, 80 pruning complexes,
k = 0.9; after each pick the test RMSE, Pearson's and Spearman's correlation.

    python -m model_preserving_id.paper.experiments.volume                                     a generated set, labelled as such
    python -m model_preserving_id.paper.experiments.volume --lba split-by-sequence-identity-30/data --grid 41 \\
        --widths 32 64 128 256 --hidden 512 --epochs 50                                  ATOM3D's files (pip install atom3d)

Leaves volume.json, volume.png and the dense network, dense.safetensors, which a second call takes if its options are the same.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import Volume
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.volume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns an exit status."""

    def body(given: Volume) -> None:
        from model_preserving_id.paper.experiments.volume_net import run

        run(given, cli.command_line(PROG, argv))

    return command(Volume, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
