"""Which weights to remove (Deep Compression, arXiv 1510.00149, section 2; thresholds: arXiv 1506.02626) and keeping them removed.

A decision is a dictionary of masks, layer name -> bool tensor of the weight's shape, True where the weight lives.
Biases and norms are not pruned. A weight that is zero is dead and stays dead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import Layer

Masks = dict[str, Tensor]
KINDS = ("conv", "fc")


def prunable_layers(model: nn.Module) -> dict[str, Layer]:
    """Convolutions and linear layers by name, in the network's order; one that shares its weight with another comes once."""
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, Layer) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = module
    return found


def kind_of(module: nn.Module) -> str:
    """conv or fc."""
    return "fc" if isinstance(module, nn.Linear) else "conv"


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Layer name -> weight. Raises UserError if one has a value that is not finite, naming the layer."""
    weights = {name: module.weight.detach() for name, module in prunable_layers(model).items()}
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(
                f"layer {name} has weights that are not finite (NaN or infinity); they cannot be compressed"
            )
    return weights


# ---------------------------------------------------------------------------------------------------------------- decisions


def masks_by_std(weights: Mapping[str, Tensor], quality: float | Mapping[str, float], alive: bool = False) -> Masks:
    """Weights with |w| < quality x standard deviation die. alive: the deviation of the living weights, else of all of them.

    quality: one number, or one per layer.
    """
    masks = {}
    for name, weight in weights.items():
        considered = weight[weight != 0] if alive else weight.flatten()
        deviation = float(considered.double().std(correction=0)) if considered.numel() else 0.0
        threshold = _of(quality, name) * deviation
        masks[name] = (weight.abs() >= threshold) & (weight != 0)
    return masks


def masks_by_density(weights: Mapping[str, Tensor], density: float | Mapping[str, float]) -> Masks:
    """In each layer the largest weights live, round(density x their number) of them; ties go to the first."""
    return {
        name: _largest(weight, round(_fraction(_of(density, name), name) * weight.numel()))
        for name, weight in weights.items()
    }


def masks_by_global_density(weights: Mapping[str, Tensor], density: float) -> Masks:
    """The largest weights of all layers together live, round(density x their number)."""
    together = torch.cat([weight.flatten() for weight in weights.values()])
    return _split(_largest(together, round(_fraction(density, "density") * together.numel())), weights)


def masks_by_percentile(weights: Mapping[str, Tensor], percentile: float) -> Masks:
    """One threshold for all layers: the given percentile of the magnitudes of all living weights."""
    if not 0 <= percentile <= 100:
        raise UserError(f"percentile {percentile} is not in 0..100")
    together = torch.cat([weight.flatten() for weight in weights.values()])
    living = int((together != 0).sum())
    return _split(_largest(together, living - round(living * percentile / 100)), weights)


def _largest(weight: Tensor, number: int) -> Tensor:
    """True at the `number` largest magnitudes, dead weights excepted."""
    magnitude = weight.abs().flatten()
    number = min(number, int((magnitude != 0).sum()))
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[torch.sort(magnitude, descending=True, stable=True).indices[:number]] = True
    return mask.reshape(weight.shape)


def _split(mask: Tensor, weights: Mapping[str, Tensor]) -> Masks:
    parts = torch.split(mask, [weight.numel() for weight in weights.values()])
    return {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def _of(value: float | Mapping[str, float], name: str) -> float:
    """The number for a layer. Raises UserError where a mapping lacks it."""
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise UserError(f"no value for layer {name}; given are {', '.join(value)}")
    return value[name]


def _fraction(density: float, name: str) -> float:
    if not 0 <= density <= 1 or math.isnan(density):
        raise UserError(f"{name}: a density of {density} is not in 0..1")
    return density


# ----------------------------------------------------------------------------------------------------- holding, and figures


class Held:
    """Keeps dead weights at +0.0: call it after each step of the optimiser (a hook of `common.training`)."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        layers = prunable_layers(model)
        self.dead = [(layers[name].weight, ~mask.to(layers[name].weight.device)) for name, mask in masks.items()]
        self()

    @torch.no_grad()
    def __call__(self) -> None:
        # The network may have moved since the last call: the masks follow it once.
        self.dead = [(weight, dead.to(weight.device)) for weight, dead in self.dead]
        for weight, dead in self.dead:
            weight.masked_fill_(dead, 0.0)


def living_masks(model: nn.Module) -> Masks:
    """The masks that a pruned network shows: where its weights are not zero."""
    return {name: weight != 0 for name, weight in prunable_weights(model).items()}


def densities(model: nn.Module) -> dict[str, float]:
    """Share of living weights per layer."""
    return {name: float((w != 0).double().mean()) if w.numel() else 0.0 for name, w in prunable_weights(model).items()}


def total_density(model: nn.Module) -> float:
    """Share of living weights of all layers together."""
    weights = prunable_weights(model).values()
    return sum(int((w != 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def csr_numbers(weight: Tensor) -> int:
    """Numbers that a CSR matrix of a weight takes: 2a + n + 1, for a living weights and n rows (section 2)."""
    return 2 * int((weight != 0).sum()) + weight.shape[0] + 1
