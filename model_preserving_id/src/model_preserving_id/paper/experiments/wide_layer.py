"""Widths of one hidden layer: the implementation of :mod:`model_preserving_id.paper.experiments.wide`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import LogLocator
from scipy.linalg import eigvalsh, solve_triangular
from torch import Tensor, nn

from common.atomic import write_json
from common.checkpoint import load_model
from common.cost import count_cost
from common.data import ImageSet, load_data
from common.device import choose_device, set_threads
from common.errors import UserError
from common.plots import figure
from common.runs import describe_environment, writable_folder
from common.trained_model import with_preprocessing_of
from model_preserving_id.activations import eval_mode
from model_preserving_id.calibration import calibration_images
from model_preserving_id.gram import Gram
from model_preserving_id.paper.settings import WIDE_IMAGES, WideLayer
from model_preserving_id.pivoted import PivotedFactor, pivoted_cholesky

METRICS = {"sigma": "σ(k+1) / σ(1)", "frobenius": "‖R₂₂‖ / ‖R‖", "pivot": "|r(k+1,k+1)| / |r(1,1)|"}


def run(settings: WideLayer, command: str) -> None:
    """Run the experiment and write its files into ``settings.out``. ``command`` is the recorded command line."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    model = load_model(settings.checkpoint).to(device)
    chosen = settings.data
    data = with_preprocessing_of(model, load_data(chosen))
    first, second = find_layers(model)
    count_cost(model, data.input_shape)  # raises an error if the input shape does not match
    calibration = calibration_images(
        data, settings.prune_batch_size, settings.seed, default=WIDE_IMAGES, device=device, workers=chosen.workers
    )
    sets = {"train": data.train, "calibration": calibration.image_set, "test": data.test}
    widths = settings.widths or default_widths(first.out_features)
    if max(widths) > first.out_features:
        raise UserError(
            f"--widths {max(widths)}: the hidden layer has {first.out_features} units; use at most {first.out_features}"
        )
    factor, sigma = factor_inputs(model, second, calibration.image_set, first.out_features, device, chosen.workers)
    points: list[dict[str, Any]] = [{"k": k, **width_errors(factor, sigma, k)} for k in sorted(set(widths))]
    weights = {point["k"]: fold_weight(factor, second.weight.detach(), point["k"]) for point in points}
    dense = {}
    for name, images in sets.items():
        found, dense[name] = measure_accuracy(model, second, images, weights, device, chosen.workers)
        for point in points:
            point[name] = found[point["k"]]
    record = {
        "command": command,
        "dataset": data.name,
        "hidden": first.out_features,
        "images": len(calibration.image_set),
        "seed": settings.seed,
        "dense": dense,
        "points": points,
        "environment": describe_environment(device),
    }
    write_json(out / "wide.json", record)
    plot(record, out)
    print(f"{out / 'wide.json'}, {out / 'metrics.png'}, {out / 'accuracy.png'}")


def default_widths(largest: int, points: int = 30) -> list[int]:
    """Return logarithmically spaced widths from 4 to ``largest``."""
    return sorted({round(float(k)) for k in np.geomspace(min(4, largest), largest, points)})


def find_layers(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """Return the two linear layers. Raises UserError for other networks."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    others = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    if len(layers) != 2 or len(others) != 2 or layers[0].out_features != layers[1].in_features:
        raise UserError("--checkpoint: expected a network of two linear layers, such as fc4096")
    return layers[0], layers[1]


@torch.no_grad()
def hidden_outputs(
    model: nn.Module, second: nn.Linear, images: ImageSet, device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs of the second layer (B, n), labels) by batch."""
    seen: list[Tensor] = []
    handle = second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with eval_mode(model):
            for batch in images.batches(1000, device=device, workers=workers):
                model(batch.images)
                yield seen.pop(), batch.labels
    finally:
        handle.remove()


def factor_inputs(
    model: nn.Module, second: nn.Linear, images: ImageSet, width: int, device, workers: int
) -> tuple[PivotedFactor, np.ndarray]:
    """Return the pivoted R of Z, and the singular values (n,) of Z, descending."""
    gram = Gram(width)
    for z, _ in hidden_outputs(model, second, images, device, workers):
        gram.add(z)
    matrix = gram.matrix()
    return pivoted_cholesky(matrix), np.sqrt(np.maximum(eigvalsh(matrix), 0.0))[::-1]


def width_errors(factor: PivotedFactor, sigma: np.ndarray, k: int) -> dict[str, float]:
    """Return the three errors of width k; 0 at full width."""
    left = float(sigma[k] / sigma[0]) if k < len(sigma) else 0.0
    return {"sigma": left, "frobenius": factor.frobenius_error(k), "pivot": factor.relative_error(k)}


def fold_weight(factor: PivotedFactor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k kept units and the next layer's weight W T^T (classes, k); T itself is not computed."""
    kept, rest, known = factor.order[:k], factor.order[k:], min(k, factor.rank)
    w = weight.double().cpu().numpy()
    new = w[:, kept].copy()
    if known and len(rest):
        new[:, :known] += solve_triangular(factor.r[:known, :known], factor.r[:known, k:] @ w[:, rest].T).T
    index = torch.from_numpy(kept.copy()).to(weight.device)
    return index, torch.from_numpy(new).to(weight.device, weight.dtype)


@torch.no_grad()
def measure_accuracy(
    model: nn.Module,
    second: nn.Linear,
    images: ImageSet,
    weights: Mapping[int, tuple[Tensor, Tensor]],
    device,
    workers: int,
) -> tuple[dict[int, dict[str, float]], float]:
    """Return ({k: top1 and agreement with the unpruned network}, top1 of the unpruned network), in percent."""
    hits = dict.fromkeys(weights, 0)
    same = dict.fromkeys(weights, 0)
    dense_hits = count = 0
    for z, labels in hidden_outputs(model, second, images, device, workers):
        predicted = second(z).argmax(1)
        dense_hits, count = dense_hits + int((predicted == labels).sum()), count + len(labels)
        for k, (kept, weight) in weights.items():
            now = (z[:, kept] @ weight.T + (0 if second.bias is None else second.bias)).argmax(1)
            hits[k] += int((now == labels).sum())
            same[k] += int((now == predicted).sum())
    found = {
        k: {"top1": round(100 * hits[k] / count, 4), "agreement": round(100 * same[k] / count, 4)} for k in weights
    }
    return found, round(100 * dense_hits / count, 4)


def plot(record: Mapping[str, Any], folder: Path) -> None:
    """Plot the three errors against k (metrics.png) and accuracies against |r(k+1,k+1)| / |r(1,1)| (accuracy.png)."""
    points = record["points"]
    with figure(folder / "metrics.png") as axes:
        for name, label in METRICS.items():
            shown = [(p["k"], p[name]) for p in points if p[name] > 0]
            axes.loglog(*zip(*shown, strict=True), marker=".", label=label)
        axes.set(xlabel="width k", ylabel="error", title=f"{record['hidden']} hidden units, {record['dataset']}")
        axes.figure.legend(loc="outside upper center", ncols=3)
    with figure(folder / "accuracy.png") as axes:
        for i, name in enumerate(record["dense"]):
            shown = [(p["pivot"], p[name]["top1"]) for p in points if p["pivot"] > 0]
            axes.semilogx(*zip(*shown, strict=True), marker=".", color=f"C{i}", label=f"{name} images")
            axes.axhline(record["dense"][name], color=f"C{i}", linewidth=0.8, linestyle="--")
        axes.invert_xaxis()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel=METRICS["pivot"], ylabel="top-1 (%)", title="dashed: unpruned network")
        axes.figure.legend(loc="outside upper center", ncols=3)
