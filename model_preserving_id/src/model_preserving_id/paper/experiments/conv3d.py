"""Prune a network of three-dimensional convolutions and measure its regression error against MACs, compared with L2 norms.

The original repository's atom3d-Pruning.ipynb: ligand binding affinity, Conv3d 32-64-128-256, FC 512, 80 complexes for
calibration, k = 0.9; test RMSE and Pearson's and Spearman's correlation after each step.

    python -m model_preserving_id.paper.experiments.conv3d                                     generated data
    python -m model_preserving_id.paper.experiments.conv3d --lba split-by-sequence-identity-30/data --grid 41 \\
        --widths 32 64 128 256 --hidden 512 --epochs 50                                  ATOM3D's files

Writes conv3d.json, conv3d.png and the unpruned network, dense.safetensors, which a second call with the same options reuses.
"""

import sys
from collections.abc import Sequence

from common import cli
from common.settings import command
from model_preserving_id.paper.settings import PruneConv3d
from model_preserving_id.settings import PACKAGE

PROG = "python -m model_preserving_id.paper.experiments.conv3d"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""

    def body(given: PruneConv3d) -> None:
        from model_preserving_id.paper.experiments.conv3d_network import run

        run(given, cli.command_line(PROG, argv))

    return command(PruneConv3d, body, argv, PROG, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
