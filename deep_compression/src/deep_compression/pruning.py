"""Selection of weights to prune (Deep Compression, arXiv 1510.00149, section 2; thresholds: arXiv 1506.02626), and pruning masks.

A selection is a dictionary of masks: layer name -> bool tensor of the weight's shape, True where the weight remains.
Biases and normalization layers are not pruned. A weight that is zero counts as pruned and remains zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import Layer

Masks = dict[str, Tensor]


def prunable_layers(model: nn.Module, excluded: Collection[str] = ()) -> dict[str, Layer]:
    """Return convolutions and linear layers by name, in the network's order; of layers with a tied weight, only the first.

    excluded: names of layers that are left out.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, Layer) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = module
    return {name: module for name, module in found.items() if name not in excluded}


def layer_type(module: nn.Module) -> str:
    """Return "conv" or "fc"."""
    return "fc" if isinstance(module, nn.Linear) else "conv"


def prunable_weights(model: nn.Module, excluded: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the weights by layer name. Raises UserError, with the layer's name, if a weight is not finite."""
    weights = {name: module.weight.detach() for name, module in prunable_layers(model, excluded).items()}
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(
                f"layer {name}: weights are not finite (NaN or infinity) and cannot be compressed; use another checkpoint"
            )
    return weights


# -------------------------------------------------------------------------------------------------------------------- rules


def masks_by_std(
    weights: Mapping[str, Tensor], quality: float | Mapping[str, float], std_of_nonzero: bool = False
) -> Masks:
    """Prune weights with |w| < quality x standard deviation of the layer's weights.

    Args:
        weights: Weights by layer name.
        quality: Factor for all layers, or by layer name.
        std_of_nonzero: Compute the standard deviation of the remaining (nonzero) weights instead of all.
    """
    masks = {}
    for name, weight in weights.items():
        considered = weight[weight != 0] if std_of_nonzero else weight.flatten()
        deviation = float(considered.double().std(correction=0)) if considered.numel() else 0.0
        threshold = _of(quality, name) * deviation
        masks[name] = (weight.abs() >= threshold) & (weight != 0)
    return masks


def quality_for_density(weights: Mapping[str, Tensor], density: float) -> float:
    """Return the quality with which :func:`masks_by_std` keeps round(density x number) weights of all layers together."""
    deviations = {name: float(weight.double().std(correction=0)) for name, weight in weights.items()}
    together = torch.cat([w.abs().flatten().double() / (deviations[name] or 1.0) for name, w in weights.items()])
    number = min(round(_fraction(density, "density") * together.numel()), int((together != 0).sum()))
    ordered = torch.sort(together, descending=True).values
    return float(ordered[number - 1]) * (1 - 1e-9) if number else 2 * float(ordered[0]) + 1


def masks_by_density(weights: Mapping[str, Tensor], density: float | Mapping[str, float]) -> Masks:
    """Keep the round(density x number) weights of each layer with the largest magnitudes; in ties, the first ones."""
    return {
        name: _largest(weight, round(_fraction(_of(density, name), name) * weight.numel()))
        for name, weight in weights.items()
    }


def masks_by_global_density(weights: Mapping[str, Tensor], density: float) -> Masks:
    """Keep the round(density x number) weights with the largest magnitudes in all layers together."""
    together = torch.cat([weight.flatten() for weight in weights.values()])
    return _split(_largest(together, round(_fraction(density, "density") * together.numel())), weights)


def masks_by_percentile(weights: Mapping[str, Tensor], percentile: float) -> Masks:
    """Prune the remaining weights of all layers below one threshold, the given percentile of their magnitudes."""
    if not 0 <= percentile <= 100:
        raise UserError(f"percentile {percentile}: must be between 0 and 100")
    together = torch.cat([weight.flatten() for weight in weights.values()])
    remaining = int((together != 0).sum())
    return _split(_largest(together, remaining - round(remaining * percentile / 100)), weights)


def _largest(weight: Tensor, number: int) -> Tensor:
    """Return a mask of the `number` largest nonzero magnitudes."""
    magnitude = weight.abs().flatten()
    number = min(number, int((magnitude != 0).sum()))
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[torch.sort(magnitude, descending=True, stable=True).indices[:number]] = True
    return mask.reshape(weight.shape)


def _split(mask: Tensor, weights: Mapping[str, Tensor]) -> Masks:
    parts = torch.split(mask, [weight.numel() for weight in weights.values()])
    return {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def _of(value: float | Mapping[str, float], name: str) -> float:
    """Return the value for a layer. Raises UserError if a mapping lacks it."""
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise UserError(f"layer {name}: no value is given; values are given for {', '.join(value)}")
    return value[name]


def _fraction(density: float, name: str) -> float:
    if not 0 <= density <= 1 or math.isnan(density):
        raise UserError(f"{name}: density {density}; must be in 0..1")
    return density


# ------------------------------------------------------------------------------------------------------ masks and densities


class PruningMaskHook:
    """Hook of :mod:`common.training` that resets pruned weights to +0.0 after each optimizer step."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        layers = prunable_layers(model)
        self.pruned = [(layers[name].weight, ~mask.to(layers[name].weight.device)) for name, mask in masks.items()]
        self()

    @torch.no_grad()
    def __call__(self) -> None:
        # If the network has moved to another device since the last call, so do the masks.
        self.pruned = [(weight, mask.to(weight.device)) for weight, mask in self.pruned]
        for weight, mask in self.pruned:
            weight.masked_fill_(mask, 0.0)


def nonzero_masks(model: nn.Module, excluded: Collection[str] = ()) -> Masks:
    """Return the masks of a pruned network: True where its weights are nonzero."""
    return {name: weight != 0 for name, weight in prunable_weights(model, excluded).items()}


def layer_densities(model: nn.Module) -> dict[str, float]:
    """Return the fraction of remaining weights of each layer."""
    return {name: float((w != 0).double().mean()) if w.numel() else 0.0 for name, w in prunable_weights(model).items()}


def total_density(model: nn.Module, excluded: Collection[str] = ()) -> float:
    """Return the fraction of remaining weights of all layers together."""
    weights = prunable_weights(model, excluded).values()
    return sum(int((w != 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def csr_size(weight: Tensor) -> int:
    """Return the number of values in a CSR matrix of a weight: 2a + n + 1, for a nonzero weights and n rows (section 2)."""
    return 2 * int((weight != 0).sum()) + weight.shape[0] + 1
