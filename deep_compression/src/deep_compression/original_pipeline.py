"""The pipeline of ``python main.py`` (:mod:`deep_compression.original_main`)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import save_model
from common.data import DataBundle, load_data
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import factory_name, import_factory, model_from_factory, model_from_name, weights_file
from common.formats import load_network
from common.markdown import markdown_table
from common.options import train_options
from common.runs import LOG, Stage, read_json
from common.settings import flatten
from common.tensor_files import write_tensor_file
from common.train import train_baseline
from common.trained_model import TrainedModel, read_trained_model, with_classes_of, with_preprocessing_of
from deep_compression import plots, stages
from deep_compression.network_file import is_compressed
from deep_compression.pruning import prunable_weights
from deep_compression.settings import BASE, OriginalPipeline

NAMES = {"vgg19": "VGG19"}


def run(settings: OriginalPipeline) -> None:
    """Compute base, pruned, quantized and encoded networks, print a table, and draw plots on request."""
    place, own, repeat = settings.run, settings.model, settings.repeat
    set_threads(place.threads)
    gpus = settings.original.gpus
    device = choose_device(place.device if gpus is None or place.device != "auto" else f"cuda:{gpus}")
    saved, name = Path(settings.saved_dir), factory_name(own) if own else NAMES.get(settings.arch, settings.arch)
    if own:
        import_factory(own)  # before the images are read
    with process_group(device):
        data = load_data(settings.data)
        factory = import_factory(own, data.num_classes) if own else None
        stage = stages.root_stage(saved, data, device, repeat.seed, repeat.force)
        file = base_file(settings, stage, name, data, factory)
        base = read_trained_model(file, data, factory=factory, device=device, workers=settings.data.workers)
        pruned = pruned_network(settings, stage, name, base)
        assert pruned.file is not None
        folder = pruned.file.parent
        folders = quantized_networks(settings, stage, name, pruned) if settings.original.apply_sharing else []
        if is_main():
            rows = [
                ("base", base.metrics(), 1.0),
                (folder.name, read_json(folder / "metrics.json")["compressed"], None),
            ]
            for encoded in folders:
                metrics = read_json(encoded / "metrics.json")
                rows.append((encoded.parent.name, metrics["compressed"], metrics["rate"]))
            print(table(rows))
            if settings.plots:
                everything = sorted(path.parent for path in saved.glob(f"{name}_Shared*/encode/metrics.json"))
                draw(saved / f"{name}-plots", folder, everything, rows[0][1]["top1"], factory)


def base_file(settings: OriginalPipeline, stage: Stage, name: str, data: DataBundle, factory: stages.Factory) -> Path:
    """Return the dense network's file: --pretrained, the original code's file in --saved-dir, or a network trained here."""
    given = weights_file(settings.model, settings.pretrained) if settings.pretrained else stage.folder / BASE
    if settings.pretrained and not given.is_file():
        raise UserError(f"--pretrained {given}: no such file")
    if given.is_file():
        if is_compressed(given) or given.suffix == ".safetensors":
            return given
        model = model_from_factory(factory, settings.pretrained or given) if factory else _named(settings, given, data)
        data = with_classes_of(model, with_preprocessing_of(model, data, given), given)
        path = stage.folder / f"{name}_base" / "model.safetensors"
        if is_main():
            save_model(path, model, **data.record())
        barrier()
        return path
    options = {
        "arch": settings.arch,
        "model": settings.model,
        "dataset": data.name,
        "seed": stage.seed,
        "stage": "base",
        "epochs": settings.base_epochs,
        "learning_rate": settings.base_learning_rate,
        "batch_size": settings.batch_size,
        **{name: value for name, value in flatten(settings.precision).items() if value},
    }
    part = stage.substage(f"{name}_base", options, fingerprint=data.fingerprint)
    if not part.finished:
        torch.manual_seed(stage.seed)
        model = factory() if factory else _named(settings, None, data)
        training = train_options(
            settings.precision,
            epochs=settings.base_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.base_learning_rate,
            momentum=0.9,
            weight_decay=5e-4,
        )
        train_baseline(
            part,
            model,
            data,
            training,
            torch.device(stage.device),
            stage.seed,
            settings.data.workers,
            factory,
            settings.tensorboard,
        )
    return part.model_path


def _named(settings: OriginalPipeline, weights: Path | None, data: DataBundle) -> nn.Module:
    """Build the network of --arch."""
    return model_from_name(settings.arch, weights, data.num_classes, data.input_shape)


def pruned_network(settings: OriginalPipeline, stage: Stage, name: str, base: TrainedModel) -> TrainedModel:
    """Return the network after all rounds of pruning; `--apply_pruning False` reuses an existing one."""
    folder = stage.folder / f"{name}_Pruned{settings.rounds:02d}"
    if not settings.original.apply_pruning and (folder / "metrics.json").is_file():
        return stages.open_network(folder / "model.safetensors", base)
    plan, training = settings.pruning_plan(), settings.pruning_training()
    pruned = stages.prune(base, stage, plan, training, folder=folder, **_stage_arguments(settings))
    if is_main():
        save_original_format(folder.with_name(f"{folder.name}.t7"), pruned)
    return pruned


def quantized_networks(settings: OriginalPipeline, stage: Stage, name: str, pruned: TrainedModel) -> list[Path]:
    """Quantize and encode the network for each number of clusters; return the run folders of the encoded networks."""
    folders = []
    for kind, plan, training in settings.quantizations():
        place = replace(stage, folder=stage.folder / f"{name}_{kind}")
        shared = stages.quantize(pruned, place, plan, training, **_stage_arguments(settings))
        if is_main():
            save_original_format(stage.folder / f"{name}_{kind}.t7", shared)
        folders.append(stages.encode(shared, place, settings.encoding, latency=not settings.no_latency))
    return folders


def _stage_arguments(settings: OriginalPipeline) -> dict[str, Any]:
    return {"latency": not settings.no_latency, "tensorboard": settings.tensorboard}


def save_original_format(path: Path, network: TrainedModel) -> None:
    """Write a state dict, the original code's format, unless the file exists and is newer than the network's."""
    assert network.file is not None
    if path.is_file() and path.stat().st_mtime >= network.file.stat().st_mtime:
        return
    write_tensor_file(path, dict(network.model.state_dict()))


def table(rows) -> str:
    """Format one line per network."""
    header = ("network", "top-1 (%)", "nonzero params", "bytes", "compression ratio")
    cells = []
    for name, metrics, ratio in rows:
        sizes = (f"{metrics['nonzero_params']:,}", f"{metrics['bytes']:,}", "" if ratio is None else f"{ratio:.1f}x")
        cells.append((name, f"{metrics['top1']:.2f}", *sizes))
    return markdown_table(header, cells)


def draw(folder: Path, pruned: Path, shared: Sequence[Path], dense: float, factory: stages.Factory) -> None:
    """Draw the original code's plots: rounds of pruning, accuracy against clusters, epochs, histograms with clusters."""
    if (pruned / stages.HISTORY).is_file():
        plots.pruning_rounds(folder / "pruning.png", read_json(pruned / stages.HISTORY), dense)
    series: dict[str, list[tuple[int, float, float]]] = {}
    for encoded in shared:
        quantized = encoded.parent / stages.QUANTIZED
        options = read_json(quantized / "config.json")["options"]
        metrics = read_json(encoded / "metrics.json")
        if options["clusters"]:
            point = (options["clusters"], metrics["compressed"]["top1"], metrics["rate"])
            series.setdefault(options["method"], []).append(point)
        with open(quantized / LOG, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows:
            plots.epochs(folder / f"epochs-{encoded.parent.name}.png", rows, encoded.parent.name)
        files = (pruned / "model.safetensors", quantized / "model.safetensors")
        _histograms(folder / encoded.parent.name, *(prunable_weights(load_network(file, factory)) for file in files))
    if series:
        plots.against_clusters(folder / "clusters.png", series, dense)
    print(f"plots: {folder}")


def _histograms(folder: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Draw the pruned weights of each layer before quantization, colored by cluster."""
    for i, (name, weight) in enumerate(before.items()):
        remaining = (weight != 0) & (after[name] != 0)
        values, labels = after[name][remaining].unique(return_inverse=True)
        if len(values) <= plots.MANY:
            plots.cluster_histogram(folder / f"Weight_{i:02d}.png", weight[remaining].numpy(), labels.numpy(), name)
