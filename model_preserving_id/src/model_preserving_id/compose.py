"""``pca_prune`` and ``lrank_prune``, as in the original README, and ``alds_prune``: factorize the layers of a network."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.data import load_dataset
from common.device import choose_device
from common.methods import Decision, Method
from common.pipeline import Outcome, compress
from common.runs import Stage, open_stage
from common.target import Target
from common.trained_model import TrainedModel, check_trained_model, with_preprocessing_of
from model_preserving_id.alds import alds
from model_preserving_id.calibration import calibration_images
from model_preserving_id.command import print_result, save_original_format
from model_preserving_id.lrank import lrank
from model_preserving_id.original_api import create_args, open_trained
from model_preserving_id.pca import pca
from model_preserving_id.portable import as_network, check_registered, resolve_dataset
from model_preserving_id.settings import PACKAGE

FOLDER = "checkpoints"
Net = nn.Module | Mapping[str, Any] | Path | str


def pca_prune(
    net: Net | None = None, keep_ratio: float = 0.70, prune_size: int = 5000, savename: str = "vgg", **options: Any
) -> nn.Module:
    """Factorize every layer by PCA of its outputs, and return the new network.

    Writes ``checkpoints/pca/{savename}pca_k{keep_ratio}_p{prune_size}.tp`` and a run folder of that name.

    Args:
        net: A module, a dictionary read by ``torch.load``, or a path. None: torchvision's VGG-16 for ImageNet.
        keep_ratio: Fraction of the parameters of ``net`` to keep, met within 0.5 %.
        prune_size: Number of calibration images.
        savename: Prefix of the file name.
        options: dataset, dataset_dir, seed, device, folder (instead of ``checkpoints``), workers, force, log.

    Raises:
        UserError: If an argument is invalid or the ratio cannot be met.
    """
    return _compose("pca", net, keep_ratio, prune_size, savename, **options)


def lrank_prune(
    keep_ratio: float = 0.984, prune_size: int = 5000, savename: str = "vgg", net: Net | None = None, **options: Any
) -> nn.Module:
    """Factorize every layer by a truncated SVD of its weight (LRank), and return the new network.

    Arguments and errors as for :func:`pca_prune`; files are in ``checkpoints/lrank/``. Data are only used for evaluation:
    ``prune_size`` is only part of the file name.
    """
    return _compose("lrank", net, keep_ratio, prune_size, savename, **options)


def alds_prune(
    net: Net | None = None, keep_ratio: float = 0.4, prune_size: int = 5000, savename: str = "vgg", **options: Any
) -> nn.Module:
    """Factorize every layer by ALDS (:mod:`model_preserving_id.alds`), and return the new network.

    Arguments and errors as for :func:`lrank_prune`; files are in ``checkpoints/alds/``. The original code's
    ``ComparisonsNet.ipynb`` takes ALDS from torchprune.
    """
    return _compose("alds", net, keep_ratio, prune_size, savename, **options)


def _compose(
    method: str,
    net: Net | None,
    keep_ratio: float,
    prune_size: int,
    savename: str,
    *,
    dataset: str | None = None,
    dataset_dir: str | None = None,
    seed: int = 2,
    device: str = "auto",
    folder: str | Path = FOLDER,
    workers: int = 4,
    force: bool = False,
    log: Callable[[str], None] = print,
) -> nn.Module:
    chosen_device = choose_device(device)
    start, dataset_dir = _open_model(net, dataset, dataset_dir, chosen_device, workers)
    check_registered(start.model)  # now, since the .tp file is written last
    data, name, home = start.data, f"{savename}{method}_k{keep_ratio}_p{prune_size}", Path(folder) / method
    options = {"method": method, "keep_ratio": keep_ratio, "prune_size": prune_size, "seed": seed, "arch": start.name}
    options |= {"dataset": data.name, "weights_digest": start.digest, "mean": data.mean, "std": data.std}
    stage = open_stage(
        home / name,
        PACKAGE,
        options,
        device=chosen_device,
        fingerprint=data.fingerprint,
        force=force,
        seed=seed,
        log=log,
    )

    def details(outcome: Outcome) -> Mapping[str, Any]:
        print_result(start.name, outcome.metrics, log)
        return {"label": f"model-preserving ID, {name}"}

    factorization = Method(method, partial(decide, method, keep_ratio, prune_size))
    compress(factorization, start, None, stage, latency=False, details=details)
    model = as_network(stage.model_path)
    save_original_format(home, f"{name}.tp", model, start, dataset_dir)
    return model


def decide(
    method: str, keep_ratio: float, prune_size: int, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    """Factorize the network by ``pca``, ``lrank`` or ``alds``, to ``keep_ratio`` of the parameters."""
    if method == "alds":
        return Decision(model=alds(start.model, keep_ratio, seed=stage.seed))
    if method == "lrank":
        return Decision(model=lrank(start.model, start.data.input_shape, keep_ratio))
    images = calibration_images(start.data, prune_size, stage.seed, device=start.device, workers=start.workers)
    model = copy.deepcopy(start.model).to(start.device)
    return Decision(model=pca(model, start.data.input_shape, images, keep_ratio, seed=stage.seed))


def _open_model(
    net: Net | None, dataset: str | None, dataset_dir: str | None, device: torch.device, workers: int
) -> tuple[TrainedModel, str | None]:
    """Return (network with its data, folder of the data); missing arguments are read from the file of the ID network."""
    if net is None:
        args = create_args()
        args.device, args.workers = str(device), workers
        args.dataset, args.dataset_dir = dataset or args.dataset, dataset_dir
        return open_trained(args), dataset_dir
    model = as_network(net)
    dataset, dataset_dir = resolve_dataset(model, dataset, dataset_dir)
    data = with_preprocessing_of(model, load_dataset(dataset, dataset_dir))
    record = getattr(model, "architecture", None)
    name = record["arch"] if record else "network"
    return check_trained_model(TrainedModel(name, model, data, device=device, workers=workers)), dataset_dir
