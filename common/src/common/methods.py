"""What a compression method looks like from outside: how ``compare`` finds every paper and runs it on the same network.

A package announces its methods as entry points of the group ``compression_papers.methods``; each is a :class:`Method`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import torch

from common.data import DataBundle
from common.training import TrainOptions

GROUP = "compression_papers.methods"


@dataclass(frozen=True)
class Task:
    """One network to compress to one budget.

    baseline  checkpoint of the trained network (any file that :func:`common.formats.load_network` reads)
    folder    where the method keeps its files, for itself alone; called again, it skips what is finished there and goes on
              with what was interrupted
    data      pictures, normalised as the checkpoint says; choices are made on parts of ``data.train`` only
    target    share that is kept, in (0, 1): of the dense MACs or of the dense bytes, as ``Method.axis`` says
    recipe    how the method trains where it trains the network itself; also the fine-tuning recipe of all methods
    shared    where the method may keep what does not depend on the target: the same folder for all budgets of a seed
    """

    baseline: Path
    folder: Path
    data: DataBundle
    target: float
    recipe: TrainOptions
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    shared: Path | None = None


@dataclass(frozen=True)
class Method:
    """How a method is called, and what must be said beside its figures.

    label     for tables and plots: "DECORE"
    compress  writes one compressed network below ``task.folder`` and returns its file, which
              :func:`common.formats.load_network` reads. ``macs``: not fine-tuned after the cut (``compare`` does that, in the
              same way for all), its MACs in [0.98, 1.00] of the target, or UserError with the nearest reachable one.
    axis      what ``target`` is a share of
    weights   "inherited" from the baseline, or "generated" by another network
    trains    whether the method trains with labels before the cut
    paper     "Han et al. 2016", or None for a yardstick
    """

    label: str
    compress: Callable[[Task], Path]
    axis: Literal["macs", "bytes"] = "macs"
    weights: Literal["inherited", "generated"] = "inherited"
    trains: bool = False
    paper: str | None = None


def methods() -> dict[str, Method]:
    """Every installed method by the name of its entry point, in order of name; one that cannot be loaded is warned of."""
    found: dict[str, Method] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            method = point.load()
        except (ImportError, AttributeError) as error:
            warnings.warn(f"the method {point.name} cannot be loaded: {error}", stacklevel=2)
            continue
        if isinstance(method, Method):
            found[point.name] = method
        else:
            warnings.warn(f"the method {point.name} is a {type(method).__name__}, not a Method", stacklevel=2)
    return found
