"""``pca_prune`` and ``lrank_prune``: another method on top of a network that ID pruned, as the original README calls them."""

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
from common.trained_model import TrainedModel, checked, with_normalization_of
from model_preserving_id.command import print_result, save_seed_file
from model_preserving_id.lrank import lrank
from model_preserving_id.pca import pca
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.portable import as_network, data_of
from model_preserving_id.seed_api import create_args, open_trained
from model_preserving_id.settings import PACKAGE

FOLDER = "checkpoints"
Net = nn.Module | Mapping[str, Any] | Path | str


def pca_prune(
    net: Net | None = None, keep_ratio: float = 0.70, prune_size: int = 5000, savename: str = "vgg", **options: Any
) -> nn.Module:
    """PCA of every layer's outputs; the factored network has ``keep_ratio`` of the parameters of ``net``, within 0.5 %.

    net: a Module, a dictionary that ``torch.load`` read, or a path; None: ImageNet's VGG-16. Leaves
    ``checkpoints/pca/{savename}pca_k{keep_ratio}_p{prune_size}.tp`` and a run folder of that name.
    options: dataset, dataset_dir, seed, device, folder (instead of ``checkpoints``), workers.
    """
    return _compose("pca", net, keep_ratio, prune_size, savename, **options)


def lrank_prune(
    keep_ratio: float = 0.984, prune_size: int = 5000, savename: str = "vgg", net: Net | None = None, **options: Any
) -> nn.Module:
    """LRank: truncated weights, each layer to its own rank; as :func:`pca_prune`, in ``checkpoints/lrank/``. Reads no data
    but to evaluate; ``prune_size`` is only in the name."""
    return _compose("lrank", net, keep_ratio, prune_size, savename, **options)


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
    place = choose_device(device)
    start, dataset_dir = _open(net, dataset, dataset_dir, place, workers)
    data, name, home = start.data, f"{savename}{method}_k{keep_ratio}_p{prune_size}", Path(folder) / method
    options = {"method": method, "keep_ratio": keep_ratio, "prune_size": prune_size, "seed": seed, "arch": start.name}
    options |= {"dataset": data.name, "weights_digest": start.digest, "mean": data.mean, "std": data.std}
    stage = open_stage(
        home / name, PACKAGE, options, device=place, fingerprint=data.fingerprint, force=force, seed=seed, log=log
    )

    def details(outcome: Outcome) -> Mapping[str, Any]:
        print_result(start.name, outcome.metrics, log)
        return {"label": f"model-preserving ID, {name}"}

    on_top = Method(method, partial(decide, method, keep_ratio, prune_size))
    compress(on_top, start, None, stage, latency=False, details=details)
    model = as_network(stage.model_path)
    save_seed_file(home, f"{name}.tp", model, start, dataset_dir)
    return model


def decide(
    method: str, keep_ratio: float, prune_size: int, start: TrainedModel, target: Target | None, stage: Stage
) -> Decision:
    """The network factored by ``pca`` or ``lrank``, with ``keep_ratio`` of the parameters."""
    if method == "lrank":
        return Decision(model=lrank(start.model, start.data.input_shape, keep_ratio))
    images = pruning_pictures(start.data, prune_size, stage.seed, device=start.device, workers=start.workers)
    model = copy.deepcopy(start.model).to(start.device)
    return Decision(model=pca(model, start.data.input_shape, images, keep_ratio, seed=stage.seed))


def _open(
    net: Net | None, dataset: str | None, dataset_dir: str | None, device: torch.device, workers: int
) -> tuple[TrainedModel, str | None]:
    """(the network with its data, the data's folder): what the arguments leave open, the ID network's own file says."""
    if net is None:
        args = create_args()
        args.device, args.workers = str(device), workers
        args.dataset, args.dataset_dir = dataset or args.dataset, dataset_dir
        return open_trained(args), dataset_dir
    model = as_network(net)
    dataset, dataset_dir = data_of(model, dataset, dataset_dir)
    data = with_normalization_of(model, load_dataset(dataset, dataset_dir))
    record = getattr(model, "architecture", None)
    name = record["arch"] if record else "network"
    return checked(TrainedModel(name, model, data, device=device, workers=workers)), dataset_dir
