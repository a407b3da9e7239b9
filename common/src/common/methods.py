"""Interface of compression methods, through which ``compare`` and each paper's script run them.

A package provides its methods as entry points of the group ``compression_papers.methods``; each is a :class:`Method`. A
method returns a :class:`Decision`; :mod:`common.pipeline` applies it.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from common.checkpoint import save_model
from common.errors import UserError
from common.options import METHOD_GROUP
from common.runs import Stage
from common.target import Axis, Target
from common.trained_model import TrainedModel
from common.training.train_options import TrainOptions

GROUP = METHOD_GROUP


@dataclass(frozen=True)
class Decision:
    """Decision of a method, not yet applied.

    Attributes:
        kept: Indices of the channels to keep, by group name. Groups not listed are not pruned.
        model: The network that ``kept`` refers to, if the method changed weights; None for the given network.
        recalibrate: Batches (N, C, H, W) for batch-norm recalibration after pruning; if empty, statistics are not
            changed.
        report: Entries for metrics.json: threshold, penalty, vector, ...
        log: Rows of log.csv, if nothing is trained afterwards.
        smaller: Explanation in case the network is smaller than the target's tolerance allows; empty: that is an error.
        trained: Function that trains ``model`` and returns the result, which has the same shapes, for a method that trains what it has
            decided. The pipeline calls it once, when a target of latency is met; None: ``model`` is final.
    """

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    model: nn.Module | None = None
    recalibrate: Iterable[Tensor] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    smaller: str = ""
    trained: Callable[[], nn.Module] | None = None


def save_network(path: Path, network: nn.Module, start: TrainedModel) -> None:
    """Save a checkpoint with the normalization, data set and classes of the starting network."""
    save_model(path, network, **start.data.record(), factory=start.factory)


Decide = Callable[[TrainedModel, Target | None, Stage], Decision]
Examples = Callable[[TrainOptions, int, int], float]


def no_examples(recipe: TrainOptions, images: int, layers: int) -> float:
    """Return 0: the method takes hardly any time of its own."""
    return 0.0


@dataclass(frozen=True)
class Method:
    """A paper's method or a reference method.

    A paper has a ``paper`` variant (its method and its settings, nothing else) and may have an ``extended`` variant (ours). The entry
    point of the former has the name of the package, that of the latter the suffix ``_extended``.

    Attributes:
        label: Name in tables and plots; it names the variant, e.g. "DECORE (paper)", "DECORE (extended)".
        decide: Function that returns the :class:`Decision` for a trained network and a target. It keeps its files and
            progress in the stage's folder and parts, and makes choices on training images only. Raises UserError, with
            the nearest reachable value, for an unreachable target.
        axis: The quantity that a target is a fraction of; None for a method that has no target. Only a method for ``macs`` is followed
            by training. Those for ``bytes`` come after it in a chain, and a method without a target is the last.
        save: Function that writes the compressed network.
        suffix: Suffix of the file that ``save`` writes; :func:`common.formats.load_network` must be able to read it.
        weights: "inherited" from the trained network, "generated" by another network, or trained from "scratch".
        trains: Whether the method trains with labels before it decides.
        paper: Citation, e.g. "Han et al. 2016"; None for a reference method.
        note: One line that must accompany the method's results; of an extended variant "differs from the paper: ...".
        variant: "paper", "extended" or "reference".
        default: Whether ``compare`` runs the method if no methods are named: one variant of each paper, and the main
            reference methods.
        examples: Function (fine-tuning recipe, number of training images, number of layers with weights) -> time of the method
            itself, in the time that a training step of the dense network takes for an example; for an estimate, about right.
        shares: Whether most of that time is spent only once for all targets of a seed.
        scores: Function (trained network, seed) -> {group: scores (C,)} that ranks channels without a target; groups that the method
            cannot rank are missing. None: the method does not rank channels.
    """

    label: str
    decide: Decide
    axis: Axis | None = "macs"
    save: Callable[[Path, nn.Module, TrainedModel], None] = save_network
    suffix: str = ".safetensors"
    weights: Literal["inherited", "generated", "scratch"] = "inherited"
    trains: bool = False
    paper: str | None = None
    note: str = ""
    variant: Literal["paper", "extended", "reference"] = "reference"
    default: bool = True
    examples: Examples = no_examples
    shares: bool = False
    scores: Callable[[TrainedModel, int], Mapping[str, Tensor]] | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether training may follow: it would undo the codes of a method that targets bytes, or has no target."""
        return self.axis not in ("bytes", None)

    def check_axis(self, target: Target | None, name: str, option: Callable[[str], str] = str) -> None:
        """Raise UserError if the method cannot aim at a target. option: from a parameter's name to its name in messages."""
        accepted = accepted_axes(self.axis)
        if target is not None and target.axis not in accepted:
            others = " or ".join(option(f"target_{axis}") for axis in accepted)
            has = f"the target {others}; give that" if accepted else "no target; omit the option"
            raise UserError(f"{option(f'target_{target.axis}')}: method {name} has {has}")


def accepted_axes(axis: Axis | None) -> tuple[Axis, ...]:
    """Return the targets that a method of this axis can aim at: one that removes channels can aim at MACs or latency."""
    return ("macs", "latency") if axis == "macs" else () if axis is None else (axis,)


def installed_methods() -> dict[str, Method]:
    """Return all installed methods by entry-point name, sorted; warn about methods that cannot be loaded."""
    found: dict[str, Method] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            method = point.load()
        except (ImportError, AttributeError) as error:
            warnings.warn(f"method {point.name}: cannot be loaded: {error}", stacklevel=2)
            continue
        if isinstance(method, Method):
            found[point.name] = method
        else:
            warnings.warn(f"method {point.name}: expected a Method, got a {type(method).__name__}", stacklevel=2)
    return found


def find_method(installed: Mapping[str, Method], name: str) -> Method:
    """Return an installed method. Raises UserError, with the names of all, if there is none of that name."""
    if name not in installed:
        raise UserError(f"method {name!r} is not installed; available: {', '.join(installed) or 'none'}")
    return installed[name]
