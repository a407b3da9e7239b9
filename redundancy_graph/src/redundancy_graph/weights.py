"""Files of trained and pruned networks, in the formats of this repository and of the original code."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.channels.resize import fit_shapes
from common.checkpoint import load_model, load_tensors, load_weights, read_state_dict, read_tensors
from common.data import DataBundle, load_dataset
from common.data.registry import image_choices
from common.errors import UserError
from common.factory import factory_name, import_factory, model_from_factory, model_from_name, weights_file
from common.models import arguments_for, create_model, find_architecture
from common.runs import Stage
from common.tensor_files import write_tensor_file
from common.trained_model import TrainedModel, check_trained_model, with_preprocessing_of
from redundancy_graph.layer_names import LAYERS, has_original_names, tensors_from_original, tensors_to_original
from redundancy_graph.settings import ORIGINAL_DATASET_DIRS, GeneratePruneInfo, PruneCifar10

SUFFIX = "-weights.pth"  # file name of the original code: <arch>-weights.pth


def open_network(settings: GeneratePruneInfo | PruneCifar10, device: torch.device) -> TrainedModel:
    """Open and validate the trained network and the data set named by the options."""
    arch, source = settings.arch, settings.source
    if source.model:
        import_factory(source.model)
    else:
        find_architecture(arch)
    given = source.pretrained or str(Path(settings.pretrain_dir) / f"{arch}{SUFFIX}")
    weights = weights_file(source.model, given)
    _require(weights)  # before the images are read
    data = _load_data(settings)
    factory = import_factory(source.model, data.num_classes) if source.model else None
    name = factory_name(source.model) if source.model else arch
    return read_network(
        arch,
        weights,
        data,
        normalize=source.normalize,
        factory=factory,
        name=name,
        given=given,
        device=device,
        workers=source.workers,
    )


def _require(weights: Path) -> None:
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; put the trained weights there, or specify --pretrained FILE")


def _load_data(settings: GeneratePruneInfo | PruneCifar10) -> DataBundle:
    """Load the data set. The default of --dataset-dir, if it exists, is used only for the data set it belongs to."""
    source = settings.source
    reads_imagenet = not source.model and find_architecture(settings.arch).input_shape[1] == 224
    dataset = source.dataset or ("imagenet" if reads_imagenet else "cifar10")
    given = settings.dataset_dir != type(settings)().dataset_dir
    default = ORIGINAL_DATASET_DIRS.get(dataset)
    root = settings.dataset_dir if given else default if default and Path(default).is_dir() else None
    return load_dataset(dataset, root, source.normalize, **image_choices(source.images))


def read_network(
    arch: str,
    weights: Path,
    data: DataBundle,
    *,
    normalize: str | None = None,
    factory: Callable[[], nn.Module] | None = None,
    name: str | None = None,
    given: str | None = None,
    **more: Any,
) -> TrainedModel:
    """Read a trained network from safetensors, or from a state dict with the names of this repository or of the original code.

    Args:
        normalize: Option with which ``data`` was loaded. If None, images are normalized as stored in the checkpoint; for CIFAR-10
            weights of the original code, as there.
        factory: Callable that builds a custom network, which file names call ``name``.
        given: Name of a library's weights, whose file is ``weights``.
        more: Further fields of TrainedModel.

    Raises:
        UserError: If a file is missing, damaged or of another network.
    """
    _require(weights)
    if factory is None:
        find_architecture(arch)
    model, is_original = _read_network(arch, Path(given or weights), data, factory)
    data = with_preprocessing_of(model, data)
    if normalize is None and is_original and data.name == "cifar10":
        data = data.with_normalization(*ORIGINAL_NORMALIZATION)
    return check_trained_model(TrainedModel(name or arch, model, data, weights, factory, **more))


ORIGINAL_NORMALIZATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def _read_network(
    arch: str, path: Path, data: DataBundle, factory: Callable[[], nn.Module] | None
) -> tuple[nn.Module, bool]:
    """Return the network and whether its file has the names of the original code."""
    if factory is not None:
        return model_from_factory(factory, path), False
    if path.suffix == ".safetensors":
        return _read_checkpoint(arch, path, data), False
    state = read_state_dict(path).without_wrappers()
    renamed = dataclasses.replace(state, tensors=tensors_from_original(arch, state.tensors))
    arguments: dict[str, Any] = {"num_classes": data.num_classes, **arguments_for(arch, data.input_shape)}
    if any(".shortcut.conv." in tensor for tensor in renamed.tensors):
        arguments["shortcut"] = "conv3x3"
    model = load_weights(create_model(arch, **arguments), renamed)
    return model, arch in LAYERS and has_original_names(arch, state.tensors)


def _read_checkpoint(arch: str, path: Path, data: DataBundle) -> nn.Module:
    model = model_from_name(arch, path, data.num_classes, data.input_shape)
    record = getattr(model, "architecture", None)
    if record is not None and record["arch"] != arch:
        raise UserError(f"{path}: contains a {record['arch']}, not a {arch}; use --arch {record['arch']}")
    return model


def load_pruned_weights(arch: str, path: Path | str, num_classes: int = 10) -> nn.Module:
    """Load a pruned network from a file ``<arch>-<threshold>-weights.pth`` of the original code; tensor shapes give its widths."""
    tensors = tensors_from_original(arch, read_tensors(path))
    shortcut = {"shortcut": "conv3x3"} if any(".shortcut.conv." in tensor for tensor in tensors) else {}
    model = create_model(arch, num_classes=num_classes, **shortcut)
    fit_shapes(model, tensors, path)
    load_tensors(model, tensors, path, optional=("num_batches_tracked",))
    return model.eval()


def save_original_format(stage: Stage, start: TrainedModel, replace: bool = True) -> Path:
    """Save ``<folder name>-weights.pth`` next to a run folder: a state dict with the names of the original code.

    Without ``replace``, a file that has these tensors is left alone; another one is that of an earlier run.
    """
    file = stage.folder.parent / f"{stage.folder.name}{SUFFIX}"
    tensors = tensors_to_original(start.arch, load_model(stage.model_path, start.factory).state_dict())
    if replace or not _has_tensors(file, tensors):
        write_tensor_file(file, tensors)
    return file


def _has_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a file has exactly these tensors."""
    try:
        found = read_state_dict(file).tensors
    except UserError:
        return False
    return found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
