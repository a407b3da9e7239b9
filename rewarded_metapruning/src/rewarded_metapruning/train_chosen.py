"""Command of stage 3: ``python -m rewarded_metapruning.train_chosen``, the ``evaluate.py`` of the original code."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.pasted_vector import use_pasted_vector
from rewarded_metapruning.settings import TrainChosen, stage_command


def main(argv: Sequence[str] | None = None, network_encoding_vector: object = None) -> int:
    """Run the command. network_encoding_vector: vector pasted into ``evaluate.py``; None if there is none."""

    def train(settings: TrainChosen) -> None:
        settings, origin = use_pasted_vector(settings, network_encoding_vector)
        from rewarded_metapruning.final_training import train_chosen

        train_chosen(settings, origin)

    return stage_command(TrainChosen, train, argv, "evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
