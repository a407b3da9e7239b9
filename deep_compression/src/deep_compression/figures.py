"""The pictures of the README, made from ``results/*.json``: ``python -m deep_compression.figures``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import cli
from common.errors import UserError
from deep_compression import plots, tables
from deep_compression.published import TITLES
from deep_compression.stages import PACKAGE


def cifar_figure(path: Path) -> Path:
    """Accuracy against file size of the CIFAR-10 networks. Raises UserError without result files."""
    networks: dict[str, dict[str, Any]] = {}
    for run in tables.cifar_runs():
        title = TITLES.get(run["arch"], run["arch"])
        found = networks.setdefault(title, {"dense": run["baseline"]["top1"], "points": []})
        text = f"{100 * run['density']:.0f} %, {run['bits']} bits, {run['rate']:.1f}x"
        found["points"].append((run["compressed"]["bytes"], run["compressed"]["top1"], text))
    if not networks:
        raise UserError(f"{tables.RESULTS}: no result files of CIFAR-10 to draw")
    return plots.accuracy_against_size(path, networks)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m deep_compression.figures", description=__doc__, package=PACKAGE)
    parser.add_argument("--out", default=str(tables.RESULTS), help="folder of the pictures")
    args = parser.parse_args(argv)
    print(cifar_figure(Path(args.out) / "cifar10.png"))


if __name__ == "__main__":
    sys.exit(main())
