"""``python main.py``: the command line of the original code (emedinac/DeepCompression), which runs all stages.

The base network is trained or loaded, pruned in `--iter` - 1 rounds, and quantized once for each number of `--lcluster`;
each quantized network is encoded. `--saved-dir` holds the run folders and the files in the original format.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.settings import command
from deep_compression.settings import PACKAGE, OriginalPipeline


def main(argv: Sequence[str] | None = None) -> int:
    return command(OriginalPipeline, run, argv, "main.py", PACKAGE)


def run(settings: OriginalPipeline) -> None:
    """Run all stages (:mod:`deep_compression.original_pipeline`)."""
    from deep_compression import original_pipeline

    original_pipeline.run(settings)
