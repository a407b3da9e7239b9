"""Stage 3 as a command: ``python -m rewarded_metapruning.evaluate``."""

import sys
from collections.abc import Sequence

from rewarded_metapruning.settings import Evaluate, stage_command


def main(argv: Sequence[str] | None = None) -> int:
    return stage_command(Evaluate, _evaluate, argv, "evaluate.py")


def _evaluate(settings: Evaluate) -> None:
    from rewarded_metapruning.evaluating import evaluate

    evaluate(settings)


if __name__ == "__main__":
    sys.exit(main())
