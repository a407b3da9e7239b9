"""What is done to a network, as data: how it is pruned, shared and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.training.options import TrainOptions
from deep_compression.choices import INITS, METHODS, ROUNDINGS, RULES
from deep_compression.settings import Encoding

if TYPE_CHECKING:
    from torch import Tensor

    from deep_compression.pruning import Masks


@dataclass(frozen=True)
class PrunePlan:
    """One or several rounds of removing weights and training the others.

    rule and values: std (|w| below value x deviation dies), density (share of each layer that lives), global-density (of all
    layers together), percentile (of the living weights' magnitudes that dies); one value per round.
    layers: values of single layers, one per round or one for all, for std and density. alive: deviation of the living
    weights only. learning_rates: one per round, instead of the training options' rate. last_epochs: epochs of the last round.
    """

    rule: str = "std"
    values: tuple[float, ...] = (1.0,)
    layers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alive: bool = False
    learning_rates: tuple[float, ...] = ()
    last_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(f"unknown pruning rule {self.rule!r}; known: {', '.join(RULES)}")
        if not self.values:
            raise UserError("give at least one value to prune by")
        highest = {"std": float("inf"), "percentile": 100.0}.get(self.rule, 1.0)
        for value in [*self.values, *(v for values in self.layers.values() for v in values)]:
            if not 0 <= value <= highest or value == float("inf"):
                raise UserError(f"a value of {value} for the rule {self.rule} is out of range")
        if self.layers and self.rule not in ("std", "density"):
            raise UserError(f"the rule {self.rule} looks at all layers together: it takes no values of single layers")
        for name, values in self.layers.items():
            if len(values) not in (1, len(self.values)):
                raise UserError(f"layer {name} has {len(values)} values for {len(self.values)} rounds")
        if self.learning_rates and len(self.learning_rates) < len(self.values):
            raise UserError(f"{len(self.learning_rates)} learning rates for {len(self.values)} rounds of pruning")


@dataclass(frozen=True)
class SharePlan:
    """How weights are clustered: bits by kind of layer or by name, or so many clusters everywhere.

    lloyd_steps: see `kmeans_1d`. bias_bits: share biases too. rounding: what biases (if not shared), norms and centroids are rounded to at the end.
    """

    method: str = "kmeans"
    init: str = "linear"
    conv_bits: int = 8
    fc_bits: int = 5
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    clusters: int | None = None
    bias_bits: int | None = None
    rounding: str = "none"
    lloyd_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("clustering", self.method, METHODS),
            ("start", self.init, INITS),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for bits in (self.conv_bits, self.fc_bits, *self.layer_bits.values(), *filter(None, [self.bias_bits])):
            if not 1 <= bits <= 12:
                raise UserError(f"{bits} bits per weight; 1 to 12 are possible")
        if self.lloyd_steps is not None and not 0 <= self.lloyd_steps <= 1_000_000:
            raise UserError(f"{self.lloyd_steps} Lloyd steps; 0 to a million are possible")
        if self.clusters is not None and not 1 <= self.clusters <= 4096:
            raise UserError(f"{self.clusters} clusters; 1 to 4096 are possible")


@dataclass(frozen=True)
class Recipe:
    """The whole way of a trained network: prune, share, encode, and the training in between."""

    prune: PrunePlan
    prune_training: TrainOptions
    share: SharePlan
    share_training: TrainOptions
    encode: Encoding = field(default_factory=Encoding)  # of every layer


def decide(plan: PrunePlan, round_: int, weights: Mapping[str, Tensor]) -> Masks:
    """The masks of one round (from 0). Raises UserError for a layer that is not there."""
    from deep_compression.pruning import (
        masks_by_density,
        masks_by_global_density,
        masks_by_percentile,
        masks_by_std,
    )

    value: Any = plan.values[round_]
    if plan.layers:
        if unknown := set(plan.layers) - set(weights):
            raise UserError(f"the network has no layer {sorted(unknown)[0]!r}; it has {', '.join(weights)}")
        value = dict.fromkeys(weights, value)
        value |= {name: given[min(round_, len(given) - 1)] for name, given in plan.layers.items()}
    if plan.rule == "std":
        return masks_by_std(weights, value, plan.alive)
    if plan.rule == "density":
        return masks_by_density(weights, value)
    return (
        masks_by_global_density(weights, value)
        if plan.rule == "global-density"
        else masks_by_percentile(weights, value)
    )
