"""Widths of one hidden layer: the work of :mod:`model_preserving_id.paper.experiments.wide`."""

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
from common.data import ImageSet, load_dataset
from common.device import choose_device, set_threads
from common.errors import UserError
from common.plots import figure
from common.runs import describe_environment, writable_folder
from common.trained_model import with_normalization_of
from model_preserving_id.activations import eval_mode
from model_preserving_id.paper.settings import Wide
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.pivoted import Pivoted, pivoted_cholesky
from model_preserving_id.rows import Gram

METRICS = {"sigma": "σ(k+1) / σ(1)", "frobenius": "‖R₂₂‖ / ‖R‖", "pivot": "|r(k+1,k+1)| / |r(1,1)|"}


def run(settings: Wide, command: str) -> None:
    """Measure, and leave the files in ``settings.out``. command: the command line, for the record."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    model = load_model(settings.checkpoint).to(device)
    chosen = settings.data
    data = load_dataset(chosen.dataset, chosen.dataset_dir, normalize=chosen.normalize)
    if chosen.normalize is None:
        data = with_normalization_of(model, data)
    first, second = hidden_layer(model)
    count_cost(model, data.input_shape)  # raises for a network of other pictures
    pictures = pruning_pictures(
        data, min(settings.prune_batch_size, len(data.train)), settings.seed, device=device, workers=chosen.workers
    )
    sets = {"train": data.train, "pruning": pictures.images, "test": data.test}
    widths = settings.widths or grid(first.out_features)
    if max(widths) > first.out_features:
        raise UserError(f"--widths {max(widths)}: the hidden layer has {first.out_features} units")
    factor, sigma = factored(model, second, pictures.images, first.out_features, device, chosen.workers)
    points: list[dict[str, Any]] = [{"k": k, **errors(factor, sigma, k)} for k in sorted(set(widths))]
    weights = {point["k"]: folded(factor, second.weight.detach(), point["k"]) for point in points}
    dense = {}
    for name, images in sets.items():
        found, dense[name] = accuracies(model, second, images, weights, device, chosen.workers)
        for point in points:
            point[name] = found[point["k"]]
    record = {
        "command": command,
        "dataset": data.name,
        "hidden": first.out_features,
        "pictures": len(pictures.images),
        "seed": settings.seed,
        "dense": dense,
        "points": points,
        "environment": describe_environment(device),
    }
    write_json(out / "wide.json", record)
    plot(record, out)
    print(f"{out / 'wide.json'}, {out / 'metrics.png'}, {out / 'accuracy.png'}")


def grid(most: int, points: int = 30) -> list[int]:
    """Widths from 4 to ``most``, evenly spaced in their logarithm."""
    return sorted({round(float(k)) for k in np.geomspace(min(4, most), most, points)})


def hidden_layer(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers. Raises UserError for any other network."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    others = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    if len(layers) != 2 or len(others) != 2 or layers[0].out_features != layers[1].in_features:
        raise UserError("this experiment wants a network of two linear layers, such as fc4096")
    return layers[0], layers[1]


@torch.no_grad()
def hidden(
    model: nn.Module, second: nn.Linear, images: ImageSet, device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(what the second layer reads (B, n), labels) batch by batch."""
    seen: list[Tensor] = []
    handle = second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with eval_mode(model):
            for batch in images.batches(1000, device=device, workers=workers):
                model(batch.images)
                yield seen.pop(), batch.labels
    finally:
        handle.remove()


def factored(
    model: nn.Module, second: nn.Linear, images: ImageSet, width: int, device, workers: int
) -> tuple[Pivoted, np.ndarray]:
    """(pivoted R of Z, its singular values (n,) descending)."""
    gram = Gram(width)
    for z, _ in hidden(model, second, images, device, workers):
        gram.add(z)
    matrix = gram.matrix()
    return pivoted_cholesky(matrix), np.sqrt(np.maximum(eigvalsh(matrix), 0.0))[::-1]


def errors(factor: Pivoted, sigma: np.ndarray, k: int) -> dict[str, float]:
    """The three metrics of what width k leaves out; 0 at full width."""
    left = float(sigma[k] / sigma[0]) if k < len(sigma) else 0.0
    return {"sigma": left, "frobenius": factor.frobenius_error(k), "pivot": factor.relative_error(k)}


def folded(factor: Pivoted, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(the k units that stay, the next layer's weight W T^T (classes, k)); T itself is never formed."""
    kept, rest, known = factor.order[:k], factor.order[k:], min(k, factor.rank)
    w = weight.double().cpu().numpy()
    new = w[:, kept].copy()
    if known and len(rest):
        new[:, :known] += solve_triangular(factor.r[:known, :known], factor.r[:known, k:] @ w[:, rest].T).T
    index = torch.from_numpy(kept.copy()).to(weight.device)
    return index, torch.from_numpy(new).to(weight.device, weight.dtype)


@torch.no_grad()
def accuracies(
    model: nn.Module,
    second: nn.Linear,
    images: ImageSet,
    weights: Mapping[int, tuple[Tensor, Tensor]],
    device,
    workers: int,
) -> tuple[dict[int, dict[str, float]], float]:
    """({k: top1 and agreement with the whole network, percent}, the whole network's top1)."""
    hits = dict.fromkeys(weights, 0)
    same = dict.fromkeys(weights, 0)
    whole = count = 0
    for z, labels in hidden(model, second, images, device, workers):
        decided = second(z).argmax(1)
        whole, count = whole + int((decided == labels).sum()), count + len(labels)
        for k, (kept, weight) in weights.items():
            now = (z[:, kept] @ weight.T + (0 if second.bias is None else second.bias)).argmax(1)
            hits[k] += int((now == labels).sum())
            same[k] += int((now == decided).sum())
    found = {
        k: {"top1": round(100 * hits[k] / count, 4), "agreement": round(100 * same[k] / count, 4)} for k in weights
    }
    return found, round(100 * whole / count, 4)


def plot(record: Mapping[str, Any], folder: Path) -> None:
    """metrics.png: the three errors against k; accuracy.png: accuracies against |r(k+1,k+1)| / |r(1,1)|."""
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
            axes.semilogx(*zip(*shown, strict=True), marker=".", color=f"C{i}", label=f"{name} pictures")
            axes.axhline(record["dense"][name], color=f"C{i}", linewidth=0.8, linestyle="--")
        axes.invert_xaxis()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel=METRICS["pivot"], ylabel="top-1 %", title="dashed: the whole network")
        axes.figure.legend(loc="outside upper center", ncols=3)
