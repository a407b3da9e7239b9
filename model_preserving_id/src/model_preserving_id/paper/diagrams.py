"""The README's figure of the idea: ``python -m model_preserving_id.paper.diagrams``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.settings import command
from model_preserving_id.paper.settings import Diagram
from model_preserving_id.settings import PACKAGE


def draw(settings: Diagram) -> None:
    """Write idea.png."""
    from model_preserving_id.paper.idea import idea

    file = Path(settings.out) / "idea.png"
    idea(file)
    print(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns an exit status."""
    return command(Diagram, draw, argv, "python -m model_preserving_id.paper.diagrams", PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
