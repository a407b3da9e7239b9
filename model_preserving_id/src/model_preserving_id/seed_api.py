"""What the original repository's README calls: ``create_args``, ``iditer``, ``id``, as functions on a namespace of options."""

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
from common.factory import named_model
from common.trained_model import TrainedModel, checked, with_normalization_of
from model_preserving_id.command import limits_of, open_prune_stage, prune_into, save_seed_file
from model_preserving_id.portable import arch_of, as_network
from model_preserving_id.settings import Pruning

FINAL = "modelIDiter_final.pt"
ONE_SHOT = "modelIDprune.pt"


def create_args() -> argparse.Namespace:
    """The seed's options with its defaults (and ``seed`` and ``log_interval``, which it forgot), and ours beyond them.

    What it gives is the paper's method: ``compensation`` is none and ``score`` the pivots, unless they are set otherwise.

    load_fname: the trained weights or checkpoint; dataset_dir: the folder of the data set.
    """
    seed = {
        "arch": "VGG16",
        "dataset": "imagenet",
        "load_fname": None,
        "k": 0.70,
        "pruner": "id",
        "pruner_args": "Zorig",
    }
    seed |= {"batch_size": 128, "prune_batch_size": 1000, "k_args": "frac", "distributed": False, "workers": 4}
    seed |= {"forward_blocksize": 25, "seed": 2, "log_interval": 10}
    ours = Pruning()
    more = {
        name: getattr(ours, name)
        for name in ("score", "refresh", "streams", "skip", "round_to", "refresh_bn", "solve_batch_size")
    }
    more |= {
        "compensation": "none",
        "eps": None,
        "without_class": None,
        "dataset_dir": None,
        "device": "auto",
        "force": False,
        "latency": False,
    }
    return argparse.Namespace(**seed, **more)


def iditer(
    args: argparse.Namespace, savedir: str | Path = ".", flops_reduc: float = 0.5, *, log: Callable[[str], None] = print
) -> nn.Module:
    """Iterative pruning until ``flops_reduc`` of the MACs are left; the pruned network.

    savedir becomes a run folder (config.json, log.csv, metrics.json, model.safetensors), with the seed's
    ``modelIDiter_cnt{N}.pt`` every ``args.log_interval`` picks and ``modelIDiter_final.pt`` in it.
    """
    return _prune(args, savedir, replace(_pruning(args, "iditer"), target_macs=flops_reduc), args.seed, FINAL, log)


def id(args: argparse.Namespace, checkdir: str | Path = ".", seed: int | None = None) -> nn.Module:
    """One shot: every layer keeps int(args.k * n) channels. Leaves ``modelIDprune.pt``, and the files of a run."""
    return _prune(args, checkdir, _pruning(args, "frac"), args.seed if seed is None else seed, ONE_SHOT, print)


def _pruning(args: argparse.Namespace, method: str) -> Pruning:
    if getattr(args, "pruner", "id") != "id":
        raise UserError(f"args.pruner {args.pruner!r}: there is only 'id'")
    names = (
        "k",
        "score",
        "refresh",
        "streams",
        "round_to",
        "compensation",
        "refresh_bn",
        "prune_batch_size",
        "solve_batch_size",
        "without_class",
    )
    chosen = {name: getattr(args, name) for name in (*names, "forward_blocksize") if hasattr(args, name)}
    return Pruning(method=method, skip=list(getattr(args, "skip", [])), **chosen)


def _prune(args: argparse.Namespace, folder: str | Path, pruning: Pruning, seed: int, final: str, log) -> nn.Module:
    start, folder = open_trained(args, limits=limits_of(pruning)), Path(folder)
    options = {
        name: value for name, value in vars(args).items() if name not in ("force", "latency", "log_interval", "skip")
    }
    stage = open_prune_stage(folder, start, pruning, seed, options, force=getattr(args, "force", False), log=log)

    def keep(model: nn.Module, count: int) -> None:
        save_seed_file(folder, f"modelIDiter_cnt{count}.pt", model, start, args.dataset_dir)

    prune_into(
        stage,
        start,
        pruning,
        f"{pruning.method}({shlex.quote(args.arch)}, {folder})",
        log_interval=getattr(args, "log_interval", 0),
        latency=getattr(args, "latency", False),
        on_evaluation=keep,
    )
    model = as_network(stage.model_path)
    save_seed_file(folder, final, model, start, args.dataset_dir)
    return model


def open_trained(args: argparse.Namespace, **more: Any) -> TrainedModel:
    """The network and the data that the original code's options name. more: other fields. Raises UserError, saying what is missing."""
    device = choose_device(getattr(args, "device", "auto"))
    arch = arch_of(args.arch, args.dataset)
    file = args.load_fname or _published_weights(arch)
    data = load_dataset(args.dataset, getattr(args, "dataset_dir", None))
    if str(file).endswith((".pt", ".tp")):
        model = as_network(file)
    else:
        model = named_model(arch, file, data.num_classes, data.input_shape)
    data = with_normalization_of(model, data)
    return checked(TrainedModel(arch, model, data, Path(file), None, device, args.workers, **more))


def _published_weights(arch: str) -> Path:
    """torchvision's weights where torch.hub keeps them: a seed call names no file for ImageNet's VGG-16."""
    known = {
        "vgg16_imagenet": "vgg16-397923af.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    }
    file = Path(torch.hub.get_dir()) / "checkpoints" / known.get(arch, "")
    if arch not in known or not file.is_file():
        raise UserError(
            f"args.load_fname names the trained weights of {arch}; without it they were looked for in {file}"
        )
    return file
