"""Rate-distortion quantization as a method of :mod:`common.methods`: the price of a bit is searched for a target file size."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.methods import Decision, Method
from common.pipeline import recalibration_images
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from deep_compression.method import write_dcz
from deep_compression.rate_distortion.quantize import find_importance, quantize_network
from deep_compression.settings import SMALLEST_FILE_ADAPTIVE, SUFFIX
from deep_compression.stages import write_compressed

FIRST_PRICE = 3e-10  # nats per bit
EXPONENT = -0.45  # of the file's size as a function of the price, about
STEPS = 12  # prices that are tried, at most
AIM = 0.993  # of the target
TIME = 600.0  # of a layer, in training steps of an example (ResNet-20)


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Quantize the network so that its file meets the target. Raises UserError if no price of a bit does."""
    assert target is not None
    images = torch.cat(list(recalibration_images(start, start.calibration_images, stage.seed)))
    importance = find_importance(start.model, images, stage.seed, start.limits.layers)
    tried: list[float] = []  # fractions of the bytes
    last: dict[str, Any] = {}  # network and fraction of zeros of the last trial

    def fraction_at(price: float) -> float:
        network, grids = quantize_network(start.model, images, price, importance=importance, seed=stage.seed)
        zeros = sum(grid.zeros * grid.size for grid in grids.values()) / sum(grid.size for grid in grids.values())
        with tempfile.TemporaryDirectory() as folder:
            size = write_compressed(Path(folder) / "trial.dcz", network, SMALLEST_FILE_ADAPTIVE, start.factory).bytes
        tried.append(size / start.bytes)
        last.update(network=network, zeros=zeros)
        stage.log(
            f"price {price:.3g} nats per bit: {100 * tried[-1]:.2f} % of the bytes, {100 * zeros:.0f} % of the weights are zero"
        )
        return tried[-1]

    price = find_price(fraction_at, target)
    if price is None:
        target.raise_unreachable("no price of a bit", sorted(tried))
    report = {"price": price, "zeros": round(last["zeros"], 4), "images": len(images)}
    return Decision(model=last["network"], report=report)


def find_price(fraction_at: Callable[[float], float], target: Target) -> float | None:
    """Return a price at which the file meets the target; None if none is found. A higher price makes the file smaller.

    The next price is that at which a line through the two nearest points, in logarithms, has the aim; outside of them, the size is
    proportional to ``price ** EXPONENT``.
    """
    aim, price = math.log(AIM * target.fraction), FIRST_PRICE
    known: list[tuple[float, float]] = []  # (logarithm of the price, logarithm of the fraction)
    for _ in range(STEPS):
        fraction = fraction_at(price)
        if target.is_met_by(fraction):
            return price
        known.append((math.log(price), math.log(fraction)))
        above = [point for point in known if point[1] > aim]
        below = [point for point in known if point[1] <= aim]
        if above and below:
            (x0, y0), (x1, y1) = max(above), min(below)
            price = (
                math.exp(x0 + (aim - y0) * (x1 - x0) / (y1 - y0)) if y1 < y0 and x1 > x0 else math.exp((x0 + x1) / 2)
            )
        else:
            x0, y0 = max(known) if above else min(known)
            price = math.exp(x0 + (aim - y0) / EXPONENT)
    return None


METHOD = Method(
    "Deep Compression (rate-distortion)",
    decide,
    axis="bytes",
    save=partial(write_dcz, encoding=SMALLEST_FILE_ADAPTIVE),
    suffix=SUFFIX,
    paper="Han et al. 2016",
    note="differs from the paper: each weight goes to the level with the least expected damage plus price of its bits, by second moments of"
    " unlabeled images; nothing is trained; an adaptive range code instead of positions and Huffman codes",
    variant="extended",
    default=False,
    examples=lambda recipe, images, layers: TIME * layers,
)
