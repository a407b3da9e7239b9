"""Stage 1 as a command: ``python -m rewarded_metapruning.train``."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import Train, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(Train, _train, argv, "train.py")


def _train(settings: Train) -> None:
    from rewarded_metapruning.training import train

    train(settings)


if __name__ == "__main__":
    sys.exit(main())
