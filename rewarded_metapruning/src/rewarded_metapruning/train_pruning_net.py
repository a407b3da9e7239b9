"""Command of stage 1: ``python -m rewarded_metapruning.train_pruning_net``, the ``train.py`` of the original code."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import TrainPruningNet, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(TrainPruningNet, _train, argv, "train.py")


def _train(settings: TrainPruningNet) -> None:
    from rewarded_metapruning.pruning_net_training import train_command

    train_command(settings)


if __name__ == "__main__":
    sys.exit(main())
