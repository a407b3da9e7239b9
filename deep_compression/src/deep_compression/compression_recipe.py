"""Plans and recipes of compression as data: how a network is pruned, quantized and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.training.train_options import TrainOptions
from deep_compression.choices import CENTROID_INITS, CLUSTERING_METHODS, PRUNING_RULES, ROUNDINGS
from deep_compression.settings import EncodingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from deep_compression.pruning import Masks


@dataclass(frozen=True)
class PruningPlan:
    """One or several rounds of pruning and retraining. Raises UserError for values that are out of range.

    Attributes:
        rule: "std" (prune |w| < value x standard deviation of the layer), "density" (fraction of each layer to keep),
            "global-density" (fraction of all layers together to keep) or "percentile" (percentage of the remaining
            weights to prune).
        values: One value per round.
        layers: Values of single layers, by name: one for all rounds or one per round; for std and density.
        std_of_nonzero: Whether the standard deviation is that of the remaining weights only.
        learning_rates: One per round, instead of the learning rate of the training options.
        last_epochs: Epochs of the last round, instead of those of the training options.
    """

    rule: str = "std"
    values: tuple[float, ...] = (1.0,)
    layers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    std_of_nonzero: bool = False
    learning_rates: tuple[float, ...] = ()
    last_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in PRUNING_RULES:
            raise UserError(f"unknown pruning rule {self.rule!r}; known: {', '.join(PRUNING_RULES)}")
        if not self.values:
            raise UserError("no pruning values are given; give one per round")
        highest = {"std": float("inf"), "percentile": 100.0}.get(self.rule, 1.0)
        for value in [*self.values, *(v for values in self.layers.values() for v in values)]:
            if not 0 <= value <= highest or value == float("inf"):
                allowed = "finite and nonnegative" if highest == float("inf") else f"in 0..{highest:g}"
                raise UserError(f"pruning value {value}: with the rule {self.rule}, it must be {allowed}")
        if self.layers and self.rule not in ("std", "density"):
            raise UserError(f"pruning rule {self.rule}: it does not support values per layer; use rule std or density")
        for name, values in self.layers.items():
            if len(values) not in (1, len(self.values)):
                raise UserError(
                    f"layer {name}: {len(values)} values for {len(self.values)} rounds; give 1 or one per round"
                )
        if self.learning_rates and len(self.learning_rates) < len(self.values):
            raise UserError(
                f"{len(self.learning_rates)} learning rates for {len(self.values)} rounds of pruning; give one per round"
            )

    @property
    def differences(self) -> list[str]:
        """How the rule differs from the paper's thresholds, which are those of single layers."""
        return [f"rule {self.rule}"] if self.rule in ("global-density", "percentile") else []


@dataclass(frozen=True)
class QuantizationPlan:
    """Clustering of the weights into shared values. Raises UserError for values that are out of range.

    Attributes:
        method: Clustering method.
        centroid_init: Initialization of the centroids.
        conv_bits, fc_bits: Bits per weight of convolutions and of linear layers.
        layer_bits: Bits per weight of single layers, by name.
        clusters: Number of clusters of every layer, instead of bits.
        bias_bits: Bits per bias; None does not share biases.
        rounding: Type to which centroids and unshared tensors (biases, normalization layers) are rounded after training.
        lloyd_steps: Number of Lloyd iterations of k-means; None: until convergence.
    """

    method: str = "kmeans"
    centroid_init: str = "linear"
    conv_bits: int = 8
    fc_bits: int = 5
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    clusters: int | None = None
    bias_bits: int | None = None
    rounding: str = "none"
    lloyd_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("clustering method", self.method, CLUSTERING_METHODS),
            ("centroid initialization", self.centroid_init, CENTROID_INITS),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for bits in (self.conv_bits, self.fc_bits, *self.layer_bits.values(), *filter(None, [self.bias_bits])):
            if not 1 <= bits <= 12:
                raise UserError(f"{bits} bits per weight; must be in 1..12")
        if self.lloyd_steps is not None and not 0 <= self.lloyd_steps <= 1_000_000:
            raise UserError(f"{self.lloyd_steps} Lloyd steps; must be in 0..1000000")
        if self.clusters is not None and not 1 <= self.clusters <= 4096:
            raise UserError(f"{self.clusters} clusters; must be in 1..4096")

    @property
    def differences(self) -> list[str]:
        """How clustering differs from the paper's k-means; numbers of bits are settings."""
        found = {
            f"clustering {self.method}": self.method != "kmeans",
            f"centroids initialized by {self.centroid_init}": self.centroid_init != "linear",
            f"{self.lloyd_steps} Lloyd steps": self.lloyd_steps is not None,
            "shared biases": self.bias_bits is not None,
            f"rounded to {self.rounding}": self.rounding != "none",
        }
        return [text for text, differs in found.items() if differs]


EQUALLY_SPACED = QuantizationPlan("kmeans-relocation", lloyd_steps=0, rounding="bfloat16")  # of the extended variant


@dataclass(frozen=True)
class CompressionRecipe:
    """The complete pipeline for a trained network: pruning, quantization, encoding, and the training of the first two."""

    pruning: PruningPlan
    pruning_training: TrainOptions
    quantization: QuantizationPlan
    quantization_training: TrainOptions
    encoding: EncodingOptions = field(default_factory=EncodingOptions)


def masks_for_round(plan: PruningPlan, round_: int, weights: Mapping[str, Tensor]) -> Masks:
    """Return the masks of one round (from 0). Raises UserError for an unknown layer."""
    from deep_compression.pruning import (
        masks_by_density,
        masks_by_global_density,
        masks_by_percentile,
        masks_by_std,
    )

    value: Any = plan.values[round_]
    if plan.layers:
        if unknown := set(plan.layers) - set(weights):
            raise UserError(f"--layer: the network has no layer {sorted(unknown)[0]!r}; it has {', '.join(weights)}")
        value = dict.fromkeys(weights, value)
        value |= {name: given[min(round_, len(given) - 1)] for name, given in plan.layers.items()}
    if plan.rule == "std":
        return masks_by_std(weights, value, plan.std_of_nonzero)
    if plan.rule == "density":
        return masks_by_density(weights, value)
    return (
        masks_by_global_density(weights, value)
        if plan.rule == "global-density"
        else masks_by_percentile(weights, value)
    )
