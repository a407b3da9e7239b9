"""Evaluate networks: accuracy, agreement, MACs, parameters, file size and latency.

All values are measured on the network after it has been reloaded from disk.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cost import count_cost
from common.data import ImageSet
from common.device import exact_float32
from common.layers import to_device
from common.options import LATENCY_BATCHES, LATENCY_REPEATS
from common.outputs import class_scores, first_output
from common.progress import track

BATCH_SIZE, BATCH_SIZE_ON_CUDA = 250, 2000  # of evaluation; the latter for images of up to 32 x 32 pixels
BATCH_PIXELS = BATCH_SIZE * 64 * 64  # on a CPU: the feature maps of 20 images of 224 x 224 take some hundred MB


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
    for batch in images.batches(_batch_size(images, torch.device(device)), device=device, workers=workers):
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
) -> Accuracy:
    """Measure accuracy in eval mode on all images and restore the model's training mode.

    The host waits for the device only once, after the last batch. Float32 arithmetic is exact (no TF32).

    Args:
        images: Images with labels.
        batch_size: Images per batch; None: 250, fewer if they are larger than 64 x 64, on CUDA up to 2000.
        reference: Class predictions of another network, shape (N,). If given, ``agreement`` is the percentage of images
            on which both networks predict the same class.
    """
    batch_size = batch_size or _batch_size(images, torch.device(device))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1 hits, top-5 hits
    predictions = []
    batches = images.batches(batch_size, device=device, workers=workers, channels_last=True)
    total = -(-len(images) // batch_size)
    with exact_float32():
        for batch in track(batches, "evaluate", total):
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


def measure_latency(
    models: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    batch_sizes: Sequence[int] = LATENCY_BATCHES,
    repeats: int = LATENCY_REPEATS,
) -> dict[str, dict[str, float]]:
    """Measure milliseconds per batch, the median of ``repeats``, networks interleaved: {network: {batch size: ms}}."""
    series = measure_latency_series(models, input_shape, device=device, batch_sizes=batch_sizes, repeats=repeats)
    return {
        name: {batch: round(statistics.median(values), 4) for batch, values in by_batch.items()}
        for name, by_batch in series.items()
    }


@torch.no_grad()
def measure_latency_series(
    models: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    batch_sizes: Sequence[int] = LATENCY_BATCHES,
    repeats: int = LATENCY_REPEATS,
) -> dict[str, dict[str, list[float]]]:
    """Measure milliseconds of every repeat, channels-last, networks interleaved: {network: {batch size: [ms, ...]}}."""
    device = torch.device(device)
    result: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for model in models.values():
        to_device(model, device).eval()
    for batch_size in batch_sizes:
        batch = torch.randn(batch_size, *input_shape, device=device)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(repeats + 2):  # the first two warm up
            for name, model in models.items():
                seconds = _time_once(model, batch, device)
                if repeat >= 2:
                    times[name].append(1000 * seconds)
        for name, values in times.items():
            result[name][str(batch_size)] = values
    return result


def _time_once(model: nn.Module, batch: Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    model(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
