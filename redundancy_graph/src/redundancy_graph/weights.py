"""Trained and pruned networks in files: ours, and those of the authors under the authors' names."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import write_bytes
from common.channels.resize import fit_shapes
from common.checkpoint import load_model, load_tensors, read_tensors
from common.data import DataBundle, load_dataset
from common.errors import UserError
from common.factory import import_factory, named_model
from common.models import arguments_for, create_model, find_architecture
from common.runs import Stage
from common.trained_model import TrainedModel, checked, with_normalization_of
from redundancy_graph.names import LAYERS, tensors_to_authors, tensors_to_ours, written_by_authors
from redundancy_graph.settings import SEED_DIRS, FineTune, Generate

SUFFIX = "-weights.pth"  # the seed's name of a weights file is <arch>-weights.pth
_OPTIONAL = ("num_batches_tracked", "source")


def open_network(settings: Generate | FineTune, device: torch.device) -> TrainedModel:
    """The trained network and the images that the options name; checked."""
    arch, source = settings.arch, settings.source
    if source.model:
        import_factory(source.model)
    else:
        find_architecture(arch)
    weights = Path(source.pretrained or Path(settings.pretrain_dir) / f"{arch}{SUFFIX}")
    _require(weights)  # before the images are read
    data = _load_data(settings)
    factory = import_factory(source.model, data.num_classes) if source.model else None
    name = source.model.replace(":", ".") if source.model else arch
    return read_network(
        arch,
        weights,
        data,
        normalize=source.normalize,
        factory=factory,
        name=name,
        device=device,
        workers=source.workers,
    )


def _require(weights: Path) -> None:
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; put the trained weights there, or name them with --pretrained FILE")


def _load_data(settings: Generate | FineTune) -> DataBundle:
    """A --dataset-dir that is only a default belongs to its own data set: the others have their own place."""
    source = settings.source
    reads_imagenet = not source.model and find_architecture(settings.arch).input_shape[1] == 224
    dataset = source.dataset or ("imagenet" if reads_imagenet else "cifar10")
    given = settings.dataset_dir != type(settings)().dataset_dir
    return load_dataset(dataset, settings.dataset_dir if given else SEED_DIRS.get(dataset), normalize=source.normalize)


def read_network(
    arch: str,
    weights: Path,
    data: DataBundle,
    *,
    normalize: str | None = None,
    factory: Callable[[], nn.Module] | None = None,
    name: str | None = None,
    **more: Any,
) -> TrainedModel:
    """Read a trained network from any of: our safetensors, a state dict under our names, a state dict under the authors'.

    normalize: the option by that name, which ``data`` was loaded with. Without it the images are normalized as the
    checkpoint says, and for the authors' CIFAR-10 weights as the authors did. With ``factory`` the network is a user's own
    and ``name`` stands for it in file names. more: other fields of TrainedModel. Raises UserError for files that are missing,
    damaged or of another network.
    """
    _require(weights)
    if factory is None:
        find_architecture(arch)
    model, by_authors = _read_network(arch, weights, data, factory)
    if normalize is None:
        data = with_normalization_of(model, data)
        if by_authors and data.name == "cifar10":
            data = data.with_normalization(*AUTHORS_NORMALIZATION)
    return checked(TrainedModel(name or arch, model, data, weights, factory, **more))


AUTHORS_NORMALIZATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def _read_network(
    arch: str, path: Path, data: DataBundle, factory: Callable[[], nn.Module] | None
) -> tuple[nn.Module, bool]:
    """(network, whether its file is in the authors' form)."""
    if path.suffix == ".safetensors":
        return _read_checkpoint(arch, path, data, factory), False
    tensors = read_tensors(path)
    if factory is not None:
        model = factory()
        load_tensors(model, tensors, path, optional=_OPTIONAL)
        return model, False
    renamed = tensors_to_ours(arch, tensors)
    arguments: dict[str, Any] = {"num_classes": data.num_classes, **arguments_for(arch, data.input_shape)}
    if any(".shortcut.conv." in tensor for tensor in renamed):
        arguments["shortcut"] = "conv3x3"
    model = create_model(arch, **arguments)
    load_tensors(model, renamed, path, optional=_OPTIONAL)
    return model, arch in LAYERS and written_by_authors(arch, tensors)


def _read_checkpoint(arch: str, path: Path, data: DataBundle, factory) -> nn.Module:
    model = load_model(path, factory) if factory else named_model(arch, path, data.num_classes, data.input_shape)
    record = getattr(model, "architecture", None)
    if factory is None and record is not None and record["arch"] != arch:
        raise UserError(f"{path} holds a {record['arch']}, not a {arch}; say --arch {record['arch']}")
    return model


def load_pruned_weights(arch: str, path: Path | str, num_classes: int = 10) -> nn.Module:
    """A pruned network from the seed's flat file ``<arch>-<threshold>-weights.pth``: the tensors' shapes are its widths."""
    tensors = tensors_to_ours(arch, read_tensors(path))
    shortcut = {"shortcut": "conv3x3"} if any(".shortcut.conv." in tensor for tensor in tensors) else {}
    model = create_model(arch, num_classes=num_classes, **shortcut)
    fit_shapes(model, tensors, path)
    load_tensors(model, tensors, path, optional=("num_batches_tracked",))
    return model.eval()


def save_flat_weights(stage: Stage, start: TrainedModel, replace: bool = True) -> Path:
    """``<folder name>-weights.pth`` beside a run folder: a dictionary of tensors under the authors' names, written atomically."""
    file = stage.folder.parent / f"{stage.folder.name}{SUFFIX}"
    if replace or not file.is_file():
        tensors = load_model(stage.model_path, start.factory).state_dict()
        content = io.BytesIO()  # torch.save puts a file's name into the file: each time another temporary one
        torch.save(tensors_to_authors(start.arch, tensors), content)
        write_bytes(file, content.getvalue())
    return file
