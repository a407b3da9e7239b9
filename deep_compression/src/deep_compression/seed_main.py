"""``python main.py``: the command line of the original code (emedinac/DeepCompression), all stages in a row.

The base network is trained, or loaded; pruned in `--iter` - 1 rounds; shared once for each number of `--lcluster`; and each
of those networks is encoded. Everything is under `--saved-dir`, in run folders and, beside them, as the original flat files.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.settings import command
from deep_compression.settings import PACKAGE, Pipeline


def main(argv: Sequence[str] | None = None) -> int:
    return command(Pipeline, run, argv, "main.py", PACKAGE)


def run(settings: Pipeline) -> None:
    """The command: all stages in a row (:mod:`deep_compression.seed_pipeline`)."""
    from deep_compression import seed_pipeline

    seed_pipeline.run(settings)
