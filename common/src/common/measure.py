"""Evaluate networks: accuracy, agreement, MACs, parameters, file size and latency.

All values are measured on the network after it has been reloaded from disk.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cost import count_cost
from common.data import ImageSet
from common.device import amp_dtype, exact_float32, warn_of_slow_amp
from common.layers import to_device
from common.options import LATENCY_BATCHES, LATENCY_SECONDS
from common.outputs import class_scores, first_output
from common.progress import track
from common.timing import FEWEST, Timing, time_calls

BATCH_SIZE, BATCH_SIZE_ON_CUDA = 250, 2000  # of evaluation; the latter for images of up to 32 x 32 pixels
# On a CPU: the feature maps of five images of 224 x 224 fit in its caches better than those of 20.
BATCH_PIXELS = BATCH_SIZE * 32 * 32


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a network.

    Attributes:
        top1: Percent of the images.
        top5: Percent of the images; 100 with five classes or fewer.
        loss: Mean cross-entropy.
        predictions: Predicted classes, shape (N,), int64.
        agreement: Percent of the images with the same prediction as a reference; None without a reference.
    """

    top1: float
    top5: float
    loss: float
    predictions: Tensor
    agreement: float | None = None

    def entries(self) -> dict[str, float]:
        """Return the entries in metrics.json."""
        found = {"top1": round(self.top1, 4), "top5": round(self.top5, 4), "loss": round(self.loss, 6)}
        return found if self.agreement is None else found | {"agreement": round(self.agreement, 4)}


@dataclass(frozen=True)
class OutputQuality:
    """Quality of a network that is not a classifier.

    Attributes:
        metric: Value of the user's metric; None without one.
        change: Distance of the outputs from those of a reference, in percent of their norm; None without a reference.
    """

    metric: float | None
    change: float | None = None

    def entries(self) -> dict[str, float]:
        """Return the entries in metrics.json."""
        found = {"metric": self.metric, "output_change": self.change}
        return {name: round(value, 6) for name, value in found.items() if value is not None}


@torch.no_grad()
def output_change(
    model: nn.Module, reference: nn.Module, images: ImageSet, *, device: torch.device | str = "cpu", workers: int = 2
) -> float:
    """Return the distance of two networks' first outputs on all images, in percent of the norm of the reference's."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    model, reference = model.eval(), reference.eval()
    size = _batch_size(images, torch.device(device))
    for batch in images.batches(size, device=device, workers=workers, channels_last=True):
        with torch.inference_mode():
            found, expected = (first_output(network(batch.images)).double() for network in (model, reference))
        sums += torch.stack([(found - expected).square().sum(), expected.square().sum()])
    difference, norm = sums.sqrt().tolist()
    return 100 * difference / norm if norm else 0.0 if not difference else float("inf")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    workers: int = 2,
    reference: Tensor | None = None,
    amp: bool = False,
) -> Accuracy:
    """Measure accuracy in eval mode on all images and restore the model's training mode.

    The host waits for the device only once, after the last batch. Float32 arithmetic is exact (no TF32).

    Args:
        images: Images with labels.
        batch_size: Images per batch; None: 250, fewer if they are larger than 32 x 32, on CUDA up to 2000.
        reference: Class predictions of another network, shape (N,). If given, ``agreement`` is the percentage of images
            on which both networks predict the same class.
        amp: Compute in automatic mixed precision (bfloat16): faster where the machine has instructions for it.
    """
    device = torch.device(device)
    batch_size = batch_size or _batch_size(images, device)
    if amp:
        warn_of_slow_amp(device, "evaluating is several times")
    precision = torch.autocast(device.type, dtype=amp_dtype(device)) if amp else nullcontext()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1 hits, top-5 hits
    predictions = []
    batches = images.batches(batch_size, device=device, workers=workers, channels_last=True)
    total = -(-len(images) // batch_size)
    with exact_float32(), precision:
        for batch in track(batches, "evaluate", total):
            with torch.inference_mode():  # of the network alone: the predictions may become labels of a training
                logits = class_scores(model(batch.images)).float()
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = ranked == batch.labels[:, None]
            loss = F.cross_entropy(logits, batch.labels, reduction="sum")
            sums += torch.stack([loss.double(), hits[:, 0].sum().double(), hits.sum().double()])
            predictions.append(ranked[:, 0])
    for module, mode in modes.items():
        module.training = mode
    found = torch.cat([sums, *(part.double() for part in predictions)]).cpu()
    classes, count = found[3:].long(), len(found) - 3
    total_loss, top1, top5 = found[:3].tolist()
    agreement = None if reference is None else 100.0 * float((classes == reference).double().mean())
    return Accuracy(100.0 * top1 / count, 100.0 * top5 / count, total_loss / count, classes, agreement)


def _batch_size(images: ImageSet, device: torch.device) -> int:
    if len(images.image_shape) != 3:
        return BATCH_SIZE
    _, height, width = images.image_shape
    if device.type != "cuda":
        return max(1, min(BATCH_SIZE, BATCH_PIXELS // (height * width)))
    return min(BATCH_SIZE_ON_CUDA, max(BATCH_SIZE, BATCH_SIZE_ON_CUDA * 32 * 32 // (height * width)))


@dataclass(frozen=True)
class LatencyTimes:
    """Times of several networks, channels-last, by batch size: {"64": timing}."""

    timings: Mapping[str, Timing]

    def milliseconds(self, name: str) -> dict[str, float]:
        """Return the median milliseconds per batch of a network, by batch size."""
        return {batch: round(1000 * timing.seconds(name), 4) for batch, timing in self.timings.items()}

    def record(self, name: str, reference: str | None = None) -> dict[str, dict[str, Any]]:
        """Return, by batch size, a network's time relative to the reference, or another one, with its interval and the control."""
        return {batch: timing.record(name, reference) for batch, timing in self.timings.items()}

    @property
    def disturbed(self) -> str:
        """Why these are not times of an idle machine; empty if they are."""
        return next((timing.disturbed for timing in self.timings.values() if timing.disturbed), "")


@torch.no_grad()
def measure_latency(
    models: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    reference: str | None = None,
    device: torch.device | str = "cpu",
    batch_sizes: Sequence[int] = LATENCY_BATCHES,
    seconds: float = LATENCY_SECONDS,
    fewest: int = FEWEST,
) -> LatencyTimes:
    """Time networks against each other, in inference mode, also in several runtimes (see :mod:`common.timing`).

    Args:
        input_shape: Shape of one example.
        reference: Name of the network to which the others are compared; default: the first.
        seconds: Longest duration, for all batch sizes together, unless ``fewest`` rounds take longer.
    """
    device = torch.device(device)
    for model in models.values():
        to_device(model, device).eval()
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    timings = {}
    for batch_size in batch_sizes:
        batch = torch.randn(batch_size, *input_shape, device=device)
        calls = {name: partial(model, _in_its_format(model, batch)) for name, model in models.items()}
        with torch.inference_mode():
            for call in calls.values():
                call()  # compiles, or opens a session
            timings[str(batch_size)] = time_calls(
                calls,
                reference or next(iter(models)),
                seconds=seconds / len(batch_sizes),
                fewest=fewest,
                synchronize=wait,
            )
    return LatencyTimes(timings)


def _in_its_format(model: nn.Module, batch: Tensor) -> Tensor:
    """Return a batch as a network reads it without copying: channels-last, unless it has a memory format of its own."""
    known = getattr(model, "memory_format", torch.channels_last if batch.dim() == 4 else torch.preserve_format)
    return batch.contiguous(memory_format=known) if known is not torch.preserve_format else batch


def model_metrics(
    model: nn.Module, accuracy: Accuracy | OutputQuality, input_shape: Sequence[int], size: int
) -> dict[str, Any]:
    """Return a network's entry in metrics.json, without the latency.

    Args:
        input_shape: Shape of one example, e.g. (C, H, W).
        size: Size of the network's file in bytes.
    """
    cost = count_cost(model, input_shape)
    found = accuracy.entries()
    last = {name: found.pop(name) for name in ("agreement",) if name in found}
    sizes = {"macs": cost.macs, "params": cost.params, "nonzero_params": cost.nonzero_params, "bytes": size}
    return {**found, **sizes, **last}
