"""What ``python main.py`` does, its options given (:mod:`deep_compression.seed_main`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from common.atomic import atomic_file
from common.checkpoint import load_weights, save_model
from common.cli import load_data
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import import_factory, named_model
from common.options import train_options
from common.results import markdown_table
from common.runs import LOG, open_stage, read_json
from common.settings import flat
from common.train import train_baseline
from deep_compression import plots, stages
from deep_compression.network_file import is_compressed, read_network
from deep_compression.pruning import prunable_weights
from deep_compression.settings import BASE, PACKAGE, Pipeline
from deep_compression.stages import Setting

NAMES = {"vgg19": "VGG19"}


def run(settings: Pipeline) -> None:
    """Base, pruned, shared and encoded networks, a table of them, and plots if asked for."""
    place, own, repeat = settings.run, settings.model, settings.repeat
    set_threads(place.threads)
    gpus = settings.original.gpus
    device = choose_device(place.device if gpus is None or place.device != "auto" else f"cuda:{gpus}")
    saved, name = Path(settings.saved_dir), own.replace(":", ".") if own else NAMES.get(settings.arch, settings.arch)
    with process_group(device):
        data = load_data(settings.data)
        factory = import_factory(own, data.num_classes) if own else None
        setting = Setting(
            data, device, repeat.seed, settings.data.workers, factory=factory, latency=not settings.no_latency,
            force=repeat.force, tensorboard=settings.tensorboard,
        )  # fmt: skip
        base = base_network(settings, saved, name, setting)
        setting = replace(setting, baseline=base)
        pruned = pruned_network(settings, saved, name, base, setting)
        rows = [("base", stages.measure(base, replace(setting, baseline=None, latency=False))["compressed"], 1.0)]
        rows.append((pruned.parent.name, read_json(pruned.parent / "metrics.json")["compressed"], None))
        folders = shared_networks(settings, saved, name, pruned, setting) if settings.original.apply_sharing else []
        for folder in folders:
            metrics = read_json(folder / "metrics.json")
            rows.append((folder.parent.name, metrics["compressed"], metrics["rate"]))
        if is_main():
            print(table(rows))
            if settings.plots:
                everything = sorted(path.parent for path in saved.glob(f"{name}_Shared*/encode/metrics.json"))
                draw(saved / f"{name}-plots", pruned.parent, everything, rows[0][1]["top1"])


def base_network(settings: Pipeline, saved: Path, name: str, setting: Setting) -> Path:
    """The dense network: --pretrained, or the file of the original code, or trained here."""
    given = Path(settings.pretrained) if settings.pretrained else saved / BASE
    if settings.pretrained and not given.is_file():
        raise UserError(f"--pretrained {given}: no such file")
    data, folder = setting.data, saved / f"{name}_base"
    if given.is_file():
        if is_compressed(given) or given.suffix == ".safetensors":
            read_network(given, setting.factory)
            return given
        model = _loaded(settings, given, data, setting)
        path = folder / "model.safetensors"
        if is_main():
            save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        barrier()
        return path
    options = {
        "arch": settings.arch, "model": settings.model, "dataset": data.name, "seed": setting.seed, "stage": "base",
        "epochs": settings.base_epochs, "learning_rate": settings.base_learning_rate, "batch_size": settings.batch_size,
        **{name: value for name, value in flat(settings.precision).items() if value},
    }  # fmt: skip
    run = open_stage(folder, PACKAGE, options, device=setting.device, fingerprint=data.fingerprint, force=setting.force)
    if not run.finished:
        torch.manual_seed(setting.seed)
        model = _fresh(settings, data, setting)
        training = train_options(
            settings.precision, epochs=settings.base_epochs, batch_size=settings.batch_size,
            learning_rate=settings.base_learning_rate, momentum=0.9, weight_decay=5e-4,
        )  # fmt: skip
        train_baseline(
            run, model, data, training, setting.device, setting.seed, setting.workers, setting.factory,
            setting.tensorboard,
        )  # fmt: skip
    return run.model_path


def _fresh(settings: Pipeline, data: DataBundle, setting: Setting):
    if setting.factory:
        return setting.factory()
    return named_model(settings.arch, None, data.num_classes, data.input_shape)


def _loaded(settings: Pipeline, path: Path, data: DataBundle, setting: Setting):
    if setting.factory is None:
        return named_model(settings.arch, path, data.num_classes, data.input_shape)
    return load_weights(setting.factory(), path)


def pruned_network(settings: Pipeline, saved: Path, name: str, base: Path, setting: Setting) -> Path:
    """The network after all rounds of pruning; `--apply_pruning False` takes the one that is there."""
    folder = saved / f"{name}_Pruned{settings.rounds:02d}"
    there = folder / "model.safetensors"
    if not settings.original.apply_pruning and (folder / "metrics.json").is_file():
        return there
    stages.prune(base, folder, settings.prune_plan(), settings.prune_training(), setting)
    if is_main():
        flat_file(saved / f"{folder.name}.t7", there, setting)
    return there


def shared_networks(settings: Pipeline, saved: Path, name: str, pruned: Path, setting: Setting) -> list[Path]:
    """For each number of clusters a shared and encoded network: the folders of the encoded ones."""
    folders = []
    for kind, plan, training in settings.shared():
        label = f"{name}_{kind}"
        stages.share(pruned, saved / label / "share", plan, training, setting)
        shared = saved / label / "share" / "model.safetensors"
        if is_main():
            flat_file(saved / f"{label}.t7", shared, setting)
        stages.encode(shared, saved / label / "encode", settings.encoding, setting)
        folders.append(saved / label / "encode")
    return folders


def flat_file(path: Path, checkpoint: Path, setting: Setting) -> None:
    """The file of the original code: a dictionary of tensors. Left alone where it is newer than the checkpoint."""
    if path.is_file() and path.stat().st_mtime >= checkpoint.stat().st_mtime:
        return
    with atomic_file(path) as temporary:
        torch.save(dict(read_network(checkpoint, setting.factory).state_dict()), temporary)


def table(rows) -> str:
    """One line per network."""
    header = ("network", "top-1 %", "parameters not zero", "bytes", "rate")
    cells = [
        (
            name,
            f"{side['top1']:.2f}",
            f"{side['nonzero_params']:,}",
            f"{side['bytes']:,}",
            "" if rate is None else f"{rate:.1f}",
        )
        for name, side, rate in rows
    ]
    return markdown_table(header, cells)


def draw(folder: Path, pruned: Path, shared: Sequence[Path], dense: float) -> None:
    """The plots of the original code: rounds of pruning, accuracy against clusters, epochs, histograms with clusters."""
    if (pruned / stages.HISTORY).is_file():
        plots.pruning_rounds(folder / "pruning.png", read_json(pruned / stages.HISTORY), dense)
    series: dict[str, list[tuple[int, float, float]]] = {}
    for encoded in shared:
        share = read_json(encoded.parent / "share" / "config.json")["options"]
        metrics = read_json(encoded / "metrics.json")
        if share["clusters"]:
            point = (share["clusters"], metrics["compressed"]["top1"], metrics["rate"])
            series.setdefault(share["method"], []).append(point)
        with open(encoded.parent / "share" / LOG, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows:
            plots.epochs(folder / f"epochs-{encoded.parent.name}.png", rows, encoded.parent.name)
        _histograms(
            folder / encoded.parent.name, pruned / "model.safetensors", encoded.parent / "share" / "model.safetensors"
        )
    if series:
        plots.against_clusters(folder / "clusters.png", series, dense)
    print(f"plots: {folder}")


def _histograms(folder: Path, pruned: Path, shared: Path) -> None:
    """Per layer the pruned weights, coloured by the cluster that each went to."""
    before, after = prunable_weights(read_network(pruned)), prunable_weights(read_network(shared))
    for i, (name, weight) in enumerate(before.items()):
        living = (weight != 0) & (after[name] != 0)
        values, labels = after[name][living].unique(return_inverse=True)
        if len(values) <= plots.MANY:
            plots.cluster_histogram(folder / f"Weight_{i:02d}.png", weight[living].numpy(), labels.numpy(), name)
