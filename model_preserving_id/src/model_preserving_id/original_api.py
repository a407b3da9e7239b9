"""The functions of the original README, ``create_args``, ``iditer`` and ``id``, on a namespace of options."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.data import load_dataset
from common.device import choose_device
from common.errors import UserError
from common.factory import model_from_name
from common.trained_model import TrainedModel, check_trained_model, with_preprocessing_of
from model_preserving_id.command import build_limits, open_prune_stage, prune_into, save_original_format
from model_preserving_id.portable import as_network, resolve_arch
from model_preserving_id.settings import ChannelPruningOptions

FINAL = "modelIDiter_final.pt"
ONE_SHOT = "modelIDprune.pt"
TORCHVISION_WEIGHTS = {
    "vgg16_imagenet": "vgg16-397923af.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}


def create_args() -> argparse.Namespace:
    """Return the options of the original code with its defaults, and the additional options of this package.

    The defaults are the paper's method. ``seed`` and ``log_interval``,
    which the original code uses but does not define, are included. ``load_fname`` is the file of the trained weights or a
    checkpoint, ``dataset_dir`` the folder of the data set.
    """
    original = {
        "arch": "VGG16",
        "dataset": "imagenet",
        "load_fname": None,
        "k": 0.70,
        "pruner": "id",
        "pruner_args": "Zorig",
    }
    original |= {"batch_size": 128, "prune_batch_size": 1000, "k_args": "frac", "distributed": False, "workers": 4}
    original |= {"forward_blocksize": 25, "seed": 2, "log_interval": 10}
    defaults = ChannelPruningOptions()
    more = {
        name: getattr(defaults, name)
        for name in (
            "score",
            "update_every",
            "residual",
            "ignored_layers",
            "round_to",
            "compensation",
            "recalibrate_bn",
            "reconstruction_images",
        )
    }
    more |= {
        "eps": None,
        "without_class": None,
        "dataset_dir": None,
        "device": "auto",
        "force": False,
        "latency": False,
    }
    return argparse.Namespace(**original, **more)


def iditer(
    args: argparse.Namespace, savedir: str | Path = ".", flops_reduc: float = 0.5, *, log: Callable[[str], None] = print
) -> nn.Module:
    """Prune iteratively and return the pruned network.

    Args:
        args: Options of :func:`create_args`.
        savedir: Becomes a run folder (config.json, log.csv, metrics.json, model.safetensors) with the original code's files
            ``modelIDiter_cnt{N}.pt``, one every ``args.log_interval`` steps, and ``modelIDiter_final.pt``.
        flops_reduc: Fraction of the MACs to keep.

    Raises:
        UserError: If an option is invalid or the target cannot be met.
    """
    return _prune(args, savedir, replace(_pruning(args, "iditer"), target_macs=flops_reduc), args.seed, FINAL, log)


def id(args: argparse.Namespace, checkdir: str | Path = ".", seed: int | None = None) -> nn.Module:
    """Prune every layer to int(args.k * n) channels in one shot, and return the network.

    Writes ``modelIDprune.pt`` and the files of a run folder into ``checkdir``. ``seed`` overrides ``args.seed``.
    """
    return _prune(args, checkdir, _pruning(args, "frac"), args.seed if seed is None else seed, ONE_SHOT, print)


def _pruning(args: argparse.Namespace, method: str) -> ChannelPruningOptions:
    if getattr(args, "pruner", "id") != "id":
        raise UserError(f"args.pruner: expected 'id', got {args.pruner!r}")
    names = (
        "k",
        "score",
        "update_every",
        "residual",
        "round_to",
        "compensation",
        "recalibrate_bn",
        "prune_batch_size",
        "reconstruction_images",
        "without_class",
    )
    chosen = {name: getattr(args, name) for name in (*names, "forward_blocksize") if hasattr(args, name)}
    return ChannelPruningOptions(method=method, ignored_layers=list(getattr(args, "ignored_layers", [])), **chosen)


def _prune(
    args: argparse.Namespace, folder: str | Path, pruning: ChannelPruningOptions, seed: int, final: str, log
) -> nn.Module:
    start, folder = open_trained(args, limits=build_limits(pruning)), Path(folder)
    options = {
        name: value
        for name, value in vars(args).items()
        if name not in ("force", "latency", "log_interval", "ignored_layers")
    }
    stage = open_prune_stage(folder, start, pruning, seed, options, force=getattr(args, "force", False), log=log)

    def save(model: nn.Module, count: int) -> None:
        save_original_format(folder, f"modelIDiter_cnt{count}.pt", model, start, args.dataset_dir)

    prune_into(
        stage,
        start,
        pruning,
        f"{pruning.method}({shlex.quote(args.arch)}, {folder})",
        log_interval=getattr(args, "log_interval", 0),
        latency=getattr(args, "latency", False),
        on_evaluation=save,
    )
    model = as_network(stage.model_path)
    save_original_format(folder, final, model, start, args.dataset_dir)
    return model


def open_trained(args: argparse.Namespace, **more: Any) -> TrainedModel:
    """Open the network and the data that the original code's options name.

    Args:
        more: Other fields of TrainedModel.

    Raises:
        UserError: If a file or an option is missing or invalid.
    """
    device = choose_device(getattr(args, "device", "auto"))
    arch = resolve_arch(args.arch, args.dataset)
    file = args.load_fname or _published_weights(arch)
    data = load_dataset(args.dataset, getattr(args, "dataset_dir", None))
    if str(file).endswith((".pt", ".tp")):
        model = as_network(file)
    else:
        model = model_from_name(arch, file, data.num_classes, data.input_shape)
    data = with_preprocessing_of(model, data)
    return check_trained_model(TrainedModel(arch, model, data, Path(file), None, device, args.workers, **more))


def _published_weights(arch: str) -> Path:
    """Return the path of torchvision's weights in torch.hub's folder, which the original code downloads."""
    name = TORCHVISION_WEIGHTS.get(arch)
    if name is None:
        raise UserError(f"args.load_fname: no weights of {arch} given; set it to the file of the trained weights")
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        raise UserError(
            f"args.load_fname: no weights of {arch} given, and no {file}; download https://download.pytorch.org/models/{name}"
            " to that folder, or set args.load_fname"
        )
    return file
