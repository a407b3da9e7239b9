"""Quantize a network, layer by layer in the order of a forward pass, in which the given and the quantized network run side by side."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.fold import foldable_pairs, simplify_batch_norm
from common.progress import track
from deep_compression.rate_distortion.importance import channel_axis, measure_importance
from deep_compression.rate_distortion.layer_quantizer import Floats, damped, quantize_layer
from deep_compression.rate_distortion.patches import input_rows, sample_positions

STEP = 1.75  # steps, relative to those that an entropy-coded uniform quantizer would have at this price
MOST_PIXELS = 5_000_000  # of the images that go through the network at once
ROWS_PER_COLUMN, FEWEST_ROWS, MOST_ROWS = 8, 8192, 32768  # of a layer's input, from which second moments are computed


@dataclass(frozen=True)
class Grid:
    """The values of a tensor: integers times ``step``. size: its elements; zeros: fraction of them."""

    step: float
    size: int
    zeros: float


@torch.no_grad()
def quantize_network(
    model: nn.Module, images: Tensor, price: float, *, importance: Mapping[str, Tensor] | None = None, seed: int = 0
) -> tuple[nn.Module, dict[str, Grid]]:
    """Return a quantized copy of a network, in eval mode, and the grid of each quantized tensor.

    Weights of convolutions and linear layers that are called once, and the shifts behind them (a bias, or that of a batch norm), are
    quantized. All other tensors are unchanged, except for batch norms, whose scales move into the weights.

    Args:
        model: Network with outputs (N, classes).
        images: Unlabeled training images (N, C, H, W), a few hundred, in the layout that the network is trained in. All go through the network
            at once, so that those beyond five million pixels are not used (100 of 224 x 224).
        price: Increase of the predictions' Kullback-Leibler divergence, in nats, that is accepted to save a bit.
        importance: Result of :func:`find_importance`, for several calls with one network.
        seed: Of the directions in which importance is measured, and of the positions at which inputs are read.

    Raises:
        UserError: If there is no layer to quantize, or the price is not positive.
    """
    if not 0 < price < math.inf:
        raise UserError(f"price {price:g}: expected a positive number of nats per bit")
    model = simplify_batch_norm(model)
    images = images[: _most_images(images)]
    if importance is None:
        importance = find_importance(model, images, seed)
    shifts = _shifts(model)
    found, generator = dict[str, Grid](), torch.Generator().manual_seed(seed)
    bar = iter(track(list(importance), "quantize"))
    layers = {name: model.get_submodule(name) for name in importance}

    def run(name: str, layer: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Quantize a layer when it is called with both networks' inputs, and return both networks' outputs."""
        next(bar)
        given, quantized = inputs.chunk(2)
        outputs = forward(given)
        important = importance[name].numpy()
        weights, grid = _quantize_weights(layer, given, quantized, important, price, generator)
        found[f"{name}.weight"] = grid
        layer.weight.copy_(weights)  # type: ignore[operator, union-attr]
        changed = forward(quantized)
        if name in shifts:
            place, shift = shifts[name]
            axis = channel_axis(layer, outputs)
            wanted = shift + (outputs - changed).transpose(0, axis).flatten(1).mean(1)
            values, found[place] = _quantize_shift(wanted, _diagonal(important), price)
            changed = changed + (values - shift).reshape(-1, *[1] * (outputs.dim() - 1 - axis))
            waiting.append((shift, values))
        return torch.cat([outputs, changed])

    waiting: list[tuple[Tensor, Tensor]] = []  # shifts that change when both networks have run
    with _instead(layers, run):
        model(torch.cat([images, images]))
    for shift, values in waiting:
        shift.copy_(values)
    return model, found


def find_importance(
    model: nn.Module, images: Tensor, seed: int = 0, excluded: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the importance of the outputs of all layers that can be quantized, in the order of their calls.

    excluded: names of layers that are left alone. Raises UserError if no layer can be quantized.
    """
    model = simplify_batch_norm(model)
    images = images[: _most_images(images)]
    calls: list[str] = []
    named = {name: one for name, one in model.named_modules() if _is_supported(one)}

    def note(name: str, layer: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        calls.append(name)
        return forward(inputs)

    with _instead(named, note), torch.no_grad():
        model(images[:1])
    times = Counter(calls)
    layers = {name: named[name] for name in calls if times[name] == 1 and name not in excluded}
    if not layers:
        raise UserError(
            "no layer can be quantized: the network has no convolution and no linear layer that is called once"
        )
    return measure_importance(model, layers, images, seed)


def _is_supported(layer: nn.Module) -> bool:
    """Return whether a layer is linear, or a convolution whose input is padded by numbers of zeros."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def _most_images(images: Tensor) -> int:
    return max(1, MOST_PIXELS // images[0, 0].numel())


def _quantize_weights(
    layer: nn.Module, given: Tensor, quantized: Tensor, importance: Floats, price: float, generator: torch.Generator
) -> tuple[Tensor, Grid]:
    """Return a layer's quantized weights, which read the quantized network's inputs, and their grid."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    groups, columns = getattr(layer, "groups", 1), weight[0].numel()
    rows = min(max(FEWEST_ROWS, ROWS_PER_COLUMN * columns), MOST_ROWS)
    positions = sample_positions(layer, given, rows, generator)
    before, now = input_rows(layer, given, positions), input_rows(layer, quantized, positions)
    moments = (now.mT @ now).double().cpu().numpy() / now.shape[1]
    cross = (before.mT @ now).double().cpu().numpy() / now.shape[1]
    weights = weight.double().cpu().numpy().reshape(groups, -1, columns)
    inverse = np.linalg.inv(damped(moments))
    adapted = weights + weights @ (cross - moments) @ inverse  # reads what the quantized layers before it return
    variance = np.exp(-np.log(np.diagonal(inverse, axis1=1, axis2=2)).mean())  # of an input, given the others
    compensated = np.asarray(np.linalg.inv(importance), np.float64)
    alone = 1 / _diagonal(compensated)  # importance of an output, if the others compensate
    step = _step(price, alone, variance, float(np.abs(weights).max()))
    levels = quantize_layer(adapted, moments, importance, step, price)
    values = torch.from_numpy(levels.reshape(weight.shape).astype(np.float32)) * torch.tensor(step)
    return values.to(weight), Grid(step, levels.size, float((levels == 0).mean()))


def _quantize_shift(wanted: Tensor, importance: Floats, price: float) -> tuple[Tensor, Grid]:
    """Return the quantized shift of a layer's outputs, and its grid."""
    step = _step(price, importance, 1.0, float(wanted.abs().max()))
    values = torch.round(wanted / step) * torch.tensor(step) + 0.0  # no -0.0
    return values, Grid(step, values.numel(), float((values == 0).float().mean()))


def _diagonal(matrices: Floats) -> Floats:
    return np.diagonal(matrices, axis1=1, axis2=2).reshape(-1)


def _step(price: float, importance: Floats, variance: float, largest: float) -> float:
    """Return the step at which another bit per weight would save its price, at most the largest magnitude, rounded to bfloat16.

    The error is taken for uniform noise of step^2 / 12 (Gish and Pierce 1968). Products of rounded steps and integers are exact.
    """
    step = STEP * math.sqrt(6 * price / (math.log(2) * math.exp(np.log(importance).mean()) * variance))
    return float(torch.tensor(min(step, largest or 1.0)).bfloat16())


def _shifts(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return {layer: (name, tensor)} of the shifts that follow layers: a batch norm's, else their own bias."""
    pairs = dict(foldable_pairs(model))
    found = {}
    for name, layer in model.named_modules():
        place = pairs.get(name, name)
        bias = getattr(model.get_submodule(place), "bias", None) if isinstance(layer, (nn.Conv2d, nn.Linear)) else None
        if isinstance(bias, Tensor):
            found[name] = (f"{place}.bias", bias)
    return found


@contextmanager
def _instead(layers: Mapping[str, nn.Module], run: Callable[..., Tensor]) -> Iterator[None]:
    """Within this context, ``run(name, layer, forward, inputs)`` is called in place of the layers' forward passes."""
    try:
        for name, layer in layers.items():
            layer.forward = partial(run, name, layer, layer.forward)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)
