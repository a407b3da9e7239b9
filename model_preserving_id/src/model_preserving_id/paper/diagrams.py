"""Draw the README's figure of the method: ``python -m model_preserving_id.paper.diagrams``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.settings import command
from model_preserving_id.paper.settings import Diagram
from model_preserving_id.settings import PACKAGE


def draw(settings: Diagram) -> None:
    """Write idea.png."""
    from model_preserving_id.paper.idea import draw_idea

    file = Path(settings.out) / "idea.png"
    draw_idea(file)
    print(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(Diagram, draw, argv, "python -m model_preserving_id.paper.diagrams", PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
