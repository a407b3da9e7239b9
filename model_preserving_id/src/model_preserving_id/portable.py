"""Networks as ``.pt`` files with the original code's names, which ``torch.load`` can also read; modules are not pickled.

A file is a dictionary of the architecture's name and arguments, its replaced layers and its tensors.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import build_recorded_model, check_data_fields, load_model, load_recorded_tensors
from common.errors import UserError
from common.models import ARCHITECTURES, create_meta_model, is_registered
from common.replaced_layers import describe_replaced_layers, insert_replaced_layers
from common.tensor_files import read_tensor_file, write_tensor_file

FORMAT = "model-preserving-id-1"
IMAGE_KEYS = ("normalize", "classes", "class_ids", "preprocessing")  # of a checkpoint's header


def check_registered(model: nn.Module) -> dict[str, Any]:
    """Return the record of a registered network's architecture. Raises UserError for networks that have no .pt dictionary."""
    record = getattr(model, "architecture", None)
    if record is None or not is_registered(record["arch"]):
        raise UserError(
            "the network is not in the registry and cannot be written as a .pt dictionary; use common.checkpoint.save_model"
        )
    return record


def to_dict(model: nn.Module, **more: Any) -> dict[str, Any]:
    """Convert a registered network to plain data. ``more``: data set, normalization etc. Raises UserError for other networks."""
    record = check_registered(model)
    layers = describe_replaced_layers(model, create_meta_model(record["arch"], **record["args"]))
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return {
        "format": FORMAT,
        "arch": record["arch"],
        "args": dict(record["args"]),
        "layers": layers,
        "tensors": tensors,
        **more,
    }


def save_dict(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a dictionary of :func:`to_dict`, atomically."""
    write_tensor_file(path, dict(content))


def from_dict(content: Mapping[str, Any], path: Path | str = "the dictionary") -> nn.Module:
    """Build the network of a dictionary of :func:`to_dict`, in eval mode. Raises UserError for other content."""
    try:
        known = content["format"] == FORMAT
        arch, args, layers, tensors = (content[key] for key in ("arch", "args", "layers", "tensors"))
    except (KeyError, TypeError, IndexError):
        known = False
    if not known or not isinstance(tensors, dict) or not all(_is_tensor(*item) for item in tensors.items()):
        raise UserError(
            f"{path}: not a network written by this package; expected a dictionary of arch, args, layers and tensors"
        )
    check_data_fields(content, path)
    model = build_recorded_model(arch, args, tensors, path)
    insert_replaced_layers(model, layers, path)
    load_recorded_tensors(model, tensors, {}, path)
    header = {key: content[key] for key in ("dataset", "dataset_dir") if isinstance(content.get(key), str)}
    header |= {key: content[key] for key in IMAGE_KEYS if content.get(key)}
    model.checkpoint_header = header  # type: ignore[assignment]
    return model.eval()


def _is_tensor(name: object, tensor: object) -> bool:
    return isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu"


def as_network(net: nn.Module | Mapping[str, Any] | Path | str) -> nn.Module:
    """Return a network from a module, a dictionary of :func:`to_dict`, or the path of a ``.pt`` or ``.safetensors`` file."""
    if isinstance(net, nn.Module):
        return net.eval()
    if isinstance(net, Mapping):
        return from_dict(net)
    path = Path(net)
    if path.suffix == ".safetensors":
        return load_model(path)
    return from_dict(read_tensor_file(path), path)


def resolve_dataset(model: nn.Module, dataset: str | None, dataset_dir: str | None) -> tuple[str, str | None]:
    """Return (data set, its folder) from the options, else from the network's file; the default is ImageNet."""
    header = getattr(model, "checkpoint_header", None) or {}
    known = header.get("dataset")
    folder = header.get("dataset_dir") if dataset in (None, known) else None
    return dataset or known or "imagenet", dataset_dir or folder


ORIGINAL_NAMES = {"mobilenet": "mobilenet_v1", "mobilenetv1": "mobilenet_v1", "mobilenetv2": "mobilenet_v2"}


def resolve_arch(name: str, dataset: str) -> str:
    """Return this project's name of an architecture, also for names of the original code such as ``VGG16``. Raises UserError."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain == "vgg16":
        return "vgg16_imagenet" if dataset == "imagenet" else "vgg16"
    candidate = name if is_registered(name) else ORIGINAL_NAMES.get(plain, plain)
    if not is_registered(candidate):
        raise UserError(f"--arch {name}: unknown architecture; expected VGG16, {', '.join(ARCHITECTURES)}")
    return candidate
