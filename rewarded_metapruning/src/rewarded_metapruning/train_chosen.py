"""Command of stage 3: ``python -m rewarded_metapruning.train_chosen``, the ``evaluate.py`` of the original code."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import TrainChosen, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(TrainChosen, _train, argv, "evaluate.py")


def _train(settings: TrainChosen) -> None:
    from rewarded_metapruning.final_training import train_chosen

    train_chosen(settings)


if __name__ == "__main__":
    sys.exit(main())
