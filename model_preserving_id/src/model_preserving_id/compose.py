"""``pca_prune`` and ``lrank_prune``: another method on top of a network that ID pruned, as the original README calls them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import save_model
from common.data import load_dataset
from common.device import choose_device
from common.runs import Stage, open_stage
from common.trained import Trained, normalized_as
from model_preserving_id.command import save_seed_file, say_result
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
    say: Callable[[str], None] = print,
) -> nn.Module:
    place = choose_device(device)
    trained, dataset_dir = _open(net, dataset, dataset_dir, place, workers)
    name = f"{savename}{method}_k{keep_ratio}_p{prune_size}"
    home = Path(folder) / method
    options = {"method": method, "keep_ratio": keep_ratio, "prune_size": prune_size, "seed": seed, "arch": trained.name}
    options |= {
        "dataset": trained.data.name,
        "weights_digest": trained.digest,
        "mean": trained.data.mean,
        "std": trained.data.std,
    }
    run = open_stage(home / name, PACKAGE, options, device=place, fingerprint=trained.data.fingerprint, force=force)
    if not run.finished:
        _finish(run, trained, factored(method, trained, keep_ratio, prune_size, seed), say)
    model = as_network(run.model_path)
    save_seed_file(home, f"{name}.tp", model, trained, dataset_dir)
    return model


def factored(method: str, trained: Trained, keep_ratio: float, prune_size: int = 5000, seed: int = 2) -> nn.Module:
    """The network compressed by ``pca`` or ``lrank``."""
    if method == "lrank":
        return lrank(trained.model, trained.data.input_shape, keep_ratio)
    pictures = pruning_pictures(trained.data, prune_size, seed, device=trained.device, workers=trained.workers)
    trained.model.to(trained.device)
    return pca(trained.model, trained.data.input_shape, pictures, keep_ratio, seed=seed)


def _finish(run: Stage, trained: Trained, model: nn.Module, say: Callable[[str], None]) -> None:
    data = trained.data
    save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    sides = trained.sides(run.model_path, latency=False)
    say_result(trained.name, sides, say)
    run.finish({**sides, "label": f"model-preserving ID, {run.folder.name}"})


def _open(net: Net | None, dataset: str | None, dataset_dir: str | None, device: torch.device, workers: int):
    """(the network with its data, the data's folder): what the arguments leave open, the ID network's own file says."""
    if net is None:
        args = create_args()
        args.device, args.workers = str(device), workers
        args.dataset, args.dataset_dir = dataset or args.dataset, dataset_dir
        return open_trained(args), dataset_dir
    model = as_network(net)
    dataset, dataset_dir = data_of(model, dataset, dataset_dir)
    data = normalized_as(model, load_dataset(dataset, dataset_dir))
    record = getattr(model, "architecture", None)
    return Trained(model, data, record["arch"] if record else "network", None, None, device, workers), dataset_dir
