"""A network of 3-D convolutions and its pruning: the implementation of :mod:`model_preserving_id.paper.experiments.conv3d`."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.atomic import write_json
from common.channels import channel_groups, keep_channels, top_channels
from common.checkpoint import load_model, read_checkpoint, save_model
from common.cost import count_cost
from common.device import choose_device, set_threads
from common.layers import weight_of
from common.plots import figure
from common.progress import track
from common.runs import describe_environment, writable_folder
from common.target import Target
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, LogRow, iterate
from model_preserving_id.paper.experiments.molecules import Molecules, generate, read_lba
from model_preserving_id.paper.settings import PruneConv3d

CALIBRATION = 80  # complexes of the validation part, as in the original notebook
REMOVED_FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of the filters, by L2 norm


class Conv3dNetwork(nn.Module):
    """Four 3x3x3 convolutions with ReLU, max-pooling after the second and the fourth, one hidden layer, one output.

    (N, channels, S, S, S) -> (N, 1)
    """

    def __init__(self, grid: int, widths: Sequence[int], hidden: int, channels: int = 5) -> None:
        super().__init__()
        sizes = [channels, *widths]
        self.convs = nn.ModuleList(nn.Conv3d(a, b, 3) for a, b in pairwise(sizes))
        left = ((grid - 4) // 2 - 4) // 2
        self.hidden, self.out = nn.Linear(widths[-1] * left**3, hidden), nn.Linear(hidden, 1)
        self.drop, self.drop_hidden = nn.Dropout(0.1), nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            x = F.max_pool3d(x, 2) if i % 2 else x
        return self.out(self.drop_hidden(F.relu(self.hidden(self.drop(x.flatten(1))))))


def run(settings: PruneConv3d, command: str) -> None:
    """Run the experiment and write its files into ``settings.out``. ``command`` is the recorded command line."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    data = read_lba(settings.lba, settings.grid) if settings.lba else generate(settings.grid, settings.seed)
    model = train(out / "dense.safetensors", data, settings, device)
    points = [measure("dense", model, data, 1.0), *prune_by_id(model, data, settings), *prune_by_norm(model, data)]
    record = {
        "command": command,
        "data": data.name,
        "sizes": {part: len(boxes) for part, (boxes, _) in data.parts.items()},
        "grid": settings.grid,
        "seed": settings.seed,
        "macs": count_cost(model, data.input_shape).macs,
        "points": points,
        "environment": describe_environment(device),
    }
    write_json(out / "conv3d.json", record)
    plot(record, out / "conv3d.png")
    print(f"{out / 'conv3d.json'}, {out / 'conv3d.png'}")


def train(file: Path, data: Molecules, settings: PruneConv3d, device: torch.device) -> nn.Module:
    """Train as the original notebook (Adam 1e-3, batch size 16, mean squared error), or load the network if it exists."""
    torch.manual_seed(settings.seed)
    build = partial(Conv3dNetwork, settings.grid, tuple(settings.widths), settings.hidden)
    recipe = {
        "data": data.name,
        "grid": settings.grid,
        "widths": settings.widths,
        "hidden": settings.hidden,
        "epochs": settings.epochs,
        "seed": settings.seed,
    }
    if file.is_file() and read_checkpoint(file)[0]["extra"] == recipe:
        return load_model(file, build).to(device)
    model = build().to(device)
    boxes, affinities = (tensor.to(device) for tensor in data.parts["train"])
    with torch.no_grad():
        model.out.bias.fill_(float(affinities.mean()))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in track(range(settings.epochs), "training"):
        for batch in torch.randperm(len(boxes)).split(16):
            optimizer.zero_grad()
            F.mse_loss(model(boxes[batch]), affinities[batch]).backward()
            optimizer.step()
    save_model(file, model, factory=build, extra=recipe)
    return load_model(file, build).to(device)


def prune_by_id(model: nn.Module, data: Molecules, settings: PruneConv3d) -> list[dict[str, Any]]:
    """Measure after every step of iterative pruning."""
    points: list[dict[str, Any]] = []

    def add_point(folded: FoldedNetwork, row: LogRow) -> None:
        points.append(measure("id", folded.build_pruned(), data, row["macs_left"]))

    inputs = list(data.parts["val"][0][:CALIBRATION].split(16))
    iterate(
        FoldedNetwork(model, inputs[0][:1]),
        inputs,
        IterationOptions(Target(settings.target_macs), settings.k, score="sigma"),
        on_step=add_point,
    )
    return points


def prune_by_norm(model: nn.Module, data: Molecules) -> list[dict[str, Any]]:
    """Measure after removing the same fraction of filters from every layer, those with the smallest L2 norms."""
    example = torch.zeros(1, *data.input_shape, device=next(model.parameters()).device)
    dense, points = count_cost(model, data.input_shape).macs, []
    for removed in REMOVED_FRACTIONS:
        kept = {}
        for group in channel_groups(model, example):
            norms = weight_of(model.get_submodule(group.name)).detach().flatten(1).norm(dim=1).tolist()
            kept[group.name] = top_channels(norms, max(1, round((1 - removed) * group.size)))
        smaller = keep_channels(model, example, kept)
        points.append(measure("l2", smaller, data, count_cost(smaller, data.input_shape).macs / dense))
    return points


@torch.no_grad()
def measure(method: str, model: nn.Module, data: Molecules, macs_left: float) -> dict[str, Any]:
    """Return RMSE and correlations on the test part."""
    boxes, labels = data.parts["test"]
    device = next(model.parameters()).device
    model.eval()
    predicted = torch.cat([model(batch.to(device)).cpu() for batch in boxes.split(16)]).flatten().double().numpy()
    expected = labels.flatten().double().numpy()
    return {
        "method": method,
        "macs_left": round(macs_left, 6),
        "rmse": round(float(np.sqrt(np.mean((predicted - expected) ** 2))), 5),
        "pearson": correlation(predicted, expected),
        "spearman": correlation(ranks(predicted), ranks(expected)),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks in ascending order; equal values get their mean rank."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[at]


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Return Pearson's correlation; 0 if either argument is constant."""
    one, two = one - one.mean(), two - two.mean()
    scale = np.linalg.norm(one) * np.linalg.norm(two)
    return round(float(one @ two / scale), 5) if scale > 0 else 0.0


def plot(record: Mapping[str, Any], file: Path) -> None:
    """Plot the test RMSE against the remaining MACs."""
    with figure(file) as axes:
        for method, label in (("id", "ID, iterative"), ("l2", "smallest L2 norms removed")):
            shown = [(p["macs_left"], p["rmse"]) for p in record["points"] if p["method"] == method]
            axes.plot(*zip(*shown, strict=True), marker=".", label=label)
        axes.axhline(record["points"][0]["rmse"], color="red", linewidth=0.8, label="unpruned network")
        axes.invert_xaxis()
        title = f"{record['data']} data, {record['grid']}³ voxels"
        axes.set(xlabel="remaining MACs (fraction)", ylabel="test RMSE", title=title)
        axes.figure.legend(loc="outside upper center", ncols=3)
