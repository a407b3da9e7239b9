"""Accuracy against file size on CIFAR-10: ``python -m deep_compression.paper.cifar10``, for pretrained networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.markdown import markdown_table
from common.runs import read_json
from common.settings import command
from deep_compression.paper.settings import Cifar10
from deep_compression.settings import PACKAGE

if TYPE_CHECKING:
    import torch

    from common.data import DataBundle


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("python -m deep_compression.paper.cifar10", argv)
    return command(
        Cifar10, lambda settings: run_points(settings, line), argv, "python -m deep_compression.paper.cifar10", PACKAGE
    )


def run_points(settings: Cifar10, line: str) -> None:
    """Compress the network at all settings, print a table and store the metrics. line: the command line, for result files."""
    from common.data import load_data

    set_threads(settings.run.threads)
    device, data = choose_device(settings.run.device), load_data(settings.data)
    header = ("network", "density", "bits", "dense top-1 (%)", "top-1 (%)", "bytes", "compression ratio")
    lines = []
    for metrics in points(settings, data, device):
        if settings.results:
            write_json(Path(settings.results) / f"cifar10-{metrics['point']}.json", {**metrics, "command": line})
        small, before = metrics["compressed"], metrics["baseline"]
        accuracies = (f"{before['top1']:.2f}", f"{small['top1']:.2f}")
        sizes = (f"{small['bytes']:,}", f"{metrics['rate']:.1f}x")
        lines.append((settings.arch, metrics["density"], metrics["bits"], *accuracies, *sizes))
        print(markdown_table(header, lines), flush=True)


def points(settings: Cifar10, data: DataBundle, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each density with each number of bits; no setting is selected by them."""
    from common.trained_model import read_trained_model
    from deep_compression import stages

    arch, seed, epochs = settings.arch, settings.repeat.seed, settings.epochs
    centroid_epochs = settings.quantize_epochs
    out = Path(settings.out) / f"{arch}-{seed}"
    file = dense_file(arch, settings.weights, data, out / "dense.safetensors")
    dense = start = read_trained_model(file, data, device=device, workers=settings.data.workers)
    root = stages.root_stage(out, data, device, seed, settings.repeat.force)
    label = arch
    for density in settings.densities:
        label = f"{label if settings.gradual else arch}-density{density:g}"
        folder = out / f"{label.removeprefix(f'{arch}-')}-epochs{epochs}"
        for bits in settings.bits:
            recipe = settings.recipe(density, bits)
            pruned = stages.prune(start, replace(root, folder=folder), recipe.pruning, recipe.pruning_training)
            place = folder / (f"bits{bits}" if centroid_epochs == 1 else f"bits{bits}-epochs{centroid_epochs}")
            shared = stages.quantize(
                pruned, replace(root, folder=place), recipe.quantization, recipe.quantization_training
            )
            encoded = stages.encode(shared, replace(root, folder=place), recipe.encoding)
            point = f"{label}-bits{bits}-epochs{epochs}" + ("" if centroid_epochs == 1 else f"-{centroid_epochs}")
            yield read_json(encoded / "metrics.json") | {
                "point": point,
                "density": density,
                "bits": bits,
                "epochs": epochs,
                "quantize_epochs": centroid_epochs,
                "learning_rate": settings.learning_rate,
                "gradual": settings.gradual,
                "amp": settings.amp,
                "top1_pruned": read_json(folder / "prune" / "metrics.json")["compressed"]["top1"],
            }
        start = pruned if settings.gradual else dense


def dense_file(arch: str, weights: str, data: DataBundle, path: Path) -> Path:
    """Write the trained network as a checkpoint and return its path."""
    from common.checkpoint import save_model
    from common.factory import model_from_name

    model = model_from_name(arch, weights, data.num_classes, data.input_shape)
    save_model(path, model, **data.record())
    return path


if __name__ == "__main__":
    sys.exit(main())
