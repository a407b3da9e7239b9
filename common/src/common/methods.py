"""What a compression method looks like from outside: how ``compare`` and a paper's own script run it.

A package announces its methods as entry points of the group ``compression_papers.methods``; each is a :class:`Method`. A
method decides; :mod:`common.pipeline` does everything else.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from common.checkpoint import save_model
from common.runs import Stage
from common.target import Axis, Target
from common.trained_model import TrainedModel

GROUP = "compression_papers.methods"


@dataclass(frozen=True)
class Decision:
    """What a method decided. Nothing is applied yet.

    Attributes:
        kept: {group: indices of the channels that stay}; groups that are not named stay whole.
        model: The network that ``kept`` refers to, where weights have changed; None for the given one.
        recalibrate: Inputs (N, C, H, W) that batch norm's statistics are measured on after pruning; none leaves them.
        report: For metrics.json: threshold, penalty, vector, ...
        log: Rows of log.csv, where nothing is trained afterwards.
    """

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    model: nn.Module | None = None
    recalibrate: Iterable[Tensor] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()


def save_network(path: Path, network: nn.Module, start: TrainedModel) -> None:
    """Write a checkpoint with what the starting network's data say."""
    data = start.data
    save_model(
        path, network, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes, factory=start.factory
    )


Decide = Callable[[TrainedModel, Target | None, Stage], Decision]


@dataclass(frozen=True)
class Method:
    """A paper's method, or one that papers are measured against.

    Attributes:
        label: For tables and plots: "DECORE".
        decide: From a trained network and a target to a :class:`Decision`. Its own files and its progress are in the
            stage's folder and parts. Choices are made on parts of the training images only. Raises UserError, with the
            nearest that can be reached, for a target out of reach.
        axis: What a target is a fraction of. ``bytes``: nothing is trained after it, and it comes last in a chain.
        save: Writes the compressed network.
        suffix: Of the file that ``save`` writes; :func:`common.formats.load_network` reads it.
        weights: "inherited" from the trained network, or "generated" by another one.
        trains: Whether the method trains with labels before it decides.
        paper: "Han et al. 2016"; None for a reference method.
        note: What must be said beside its figures, in one line.
    """

    label: str
    decide: Decide
    axis: Axis = "macs"
    save: Callable[[Path, nn.Module, TrainedModel], None] = save_network
    suffix: str = ".safetensors"
    weights: Literal["inherited", "generated"] = "inherited"
    trains: bool = False
    paper: str | None = None
    note: str = ""


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
