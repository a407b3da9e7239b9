"""Find which MobileNet a file's layers are, and build it with their weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.conversion.tensorflow_lite import Operation, chain_problem
from common.errors import UserError
from common.models import check_arguments, create_meta_model
from common.models.mobilenet_v1 import BLOCKS, STEM

V1, V2 = "mobilenet_v1", "mobilenet_v2"
# (expansion, number of blocks, stride of the first) of MobileNetV2's stages
V2_STAGES = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
V2_WIDTHS = (1.0, 0.75, 0.5, 0.35, 1.3, 1.4)  # published; rounding hides which one a narrow stem has
BACKGROUND = 1001  # outputs of TensorFlow's networks, of which the first is not a class of ImageNet


def from_operations(operations: Sequence[Operation], path: Path) -> nn.Module:
    """Return the MobileNet of a TensorFlow Lite file, whose batch norm is folded into its convolutions.

    Raises UserError, naming the file and the first difference, for another network.
    """
    problems = {
        arch: chain_problem(operations, wanted) for arch, wanted in ((V1, [*v1_operations()]), (V2, [*v2_operations()]))
    }
    arch = next((name for name, problem in problems.items() if problem is None), None)
    if arch is None:
        raise UserError(
            f"{path}: neither MobileNetV1 ({problems[V1]}) nor MobileNetV2 ({problems[V2]}); other networks of TensorFlow Lite are "
            "not converted"
        )
    layers = [operation for operation in operations if operation.weight is not None]
    classes = len(layers[-1].weight)  # type: ignore[arg-type]
    arguments = {"num_classes": classes, "tensorflow": True, "batch_norm": False}
    stem = len(layers[0].weight)  # type: ignore[arg-type]
    for width in (stem / STEM,) if arch == V1 else dict.fromkeys((stem / STEM, *V2_WIDTHS)):
        model = _empty(arch, {**arguments, "width_mult": width}, layers)
        if model is not None and _fits(model, layers):
            return _filled(model, layers)
    raise UserError(f"{path}: {arch} with widths that are those of no multiplier (the stem has {stem} channels)")


def v1_operations() -> Iterator[str]:
    """Yield MobileNetV1's operations: :meth:`Operation.describe`."""
    yield "conv 3x3 / 2 relu6"
    for _, stride in BLOCKS:
        yield f"depthwise 3x3 / {stride} relu6"
        yield "conv 1x1 / 1 relu6"
    yield "pool"
    yield "conv 1x1 / 1"


def v2_operations() -> Iterator[str]:
    """Yield MobileNetV2's operations."""
    yield "conv 3x3 / 2 relu6"
    for expansion, count, stride in V2_STAGES:
        for number in range(count):
            if expansion > 1:
                yield "conv 1x1 / 1 relu6"
            yield f"depthwise 3x3 / {1 if number else stride} relu6"
            yield "conv 1x1 / 1"
            if number:
                yield "add"
    yield "conv 1x1 / 1 relu6"
    yield "pool"
    yield "conv 1x1 / 1"


def _empty(arch: str, arguments: dict, layers: Sequence[Operation]) -> nn.Module | None:
    """Return a network without memory for its weights, or None if its arguments do not fit the layers."""
    shapes = [tensor.shape for layer in layers for tensor in (layer.weight, layer.bias) if tensor is not None]
    try:
        return create_meta_model(arch, **check_arguments(arch, arguments, shapes))
    except UserError:
        return None


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return convolutions and the last linear layer, in the order of execution."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _shape(layer: nn.Module) -> tuple[int, ...]:
    shape = tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]
    return shape if len(shape) == 4 else (*shape, 1, 1)


def _fits(model: nn.Module, layers: Sequence[Operation]) -> bool:
    have = [tuple(layer.weight.shape) for layer in layers if layer.weight is not None]
    return have == [_shape(layer) for layer in _layers(model)]


def _filled(model: nn.Module, layers: Sequence[Operation]) -> nn.Module:
    """Return the network with the weights of the file, in place."""
    for module, layer in zip(_layers(model), layers, strict=True):
        assert layer.weight is not None and layer.bias is not None
        weight = layer.weight.flatten(1) if isinstance(module, nn.Linear) else layer.weight
        module.weight, module.bias = nn.Parameter(weight), nn.Parameter(layer.bias)
    return model


def from_keras_variables(variables: Mapping[str, np.ndarray], path: Path) -> nn.Module:
    """Return Keras' MobileNetV1 of a TensorFlow.js model, with separate batch norm. Raises UserError for another network."""
    names = keras_names()
    missing = [name for name in names if name not in variables]
    if missing or len(variables) != len(names):
        unknown = next((name for name in variables if name not in names), None)
        about = f"no variable {missing[0]}" if missing else f"an additional variable {str(unknown)[:100]}"
        raise UserError(f"{path}: not Keras' MobileNetV1 ({about}); other networks of TensorFlow.js are not converted")
    tensors = {ours: _torch_layout(theirs, variables[theirs]) for theirs, ours in names.items()}
    tensors["linear.weight"] = tensors["linear.weight"].flatten(1)
    width = len(tensors["conv.weight"]) / STEM
    arguments = {"num_classes": len(tensors["linear.bias"]), "width_mult": width, "tensorflow": True}
    model = create_meta_model(V1, **check_arguments(V1, arguments, [tensor.shape for tensor in tensors.values()]))
    return fill(model, tensors, path)


def keras_names() -> dict[str, str]:
    """Return {name of a variable of Keras' MobileNetV1: name of our tensor}."""
    places = {"conv1": ("conv", "norm")}
    for number in range(len(BLOCKS)):
        block = f"blocks.{number}"
        places[f"conv_dw_{number + 1}"] = (f"{block}.depthwise", f"{block}.norm1")
        places[f"conv_pw_{number + 1}"] = (f"{block}.pointwise", f"{block}.norm2")
    found = {}
    for theirs, (convolution, norm) in places.items():
        kernel = "depthwise_kernel" if "_dw_" in theirs else "kernel"
        found[f"{theirs}/{kernel}"] = f"{convolution}.weight"
        found |= {f"{theirs}_bn/{key}": f"{norm}.{ours}" for key, ours in BATCH_NORM.items()}
    return found | {"conv_preds/kernel": "linear.weight", "conv_preds/bias": "linear.bias"}


BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _torch_layout(name: str, values: np.ndarray) -> Tensor:
    """Return a kernel (H, W, in, out), or (H, W, channels, 1) of a depthwise one, as torch orders it."""
    tensor = torch.from_numpy(values)
    if tensor.dim() != 4:
        return tensor
    return tensor.permute((2, 3, 0, 1) if name.endswith("depthwise_kernel") else (3, 2, 0, 1)).clone(
        memory_format=torch.contiguous_format
    )


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Load tensors into a network without memory for its weights, and return it. Raises UserError unless they fit."""
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise UserError(f"{path}: {name} is {found}, not {tuple(tensor.shape)}; the file is of another network")
    if tensors.keys() != wanted.keys():
        raise UserError(f"{path}: {min(tensors.keys() - wanted.keys())} is no tensor of the network")
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**tensors, **counters}, assign=True)
    return model


def remove_background(model: nn.Module) -> bool:
    """Remove the first of 1,001 outputs, in place: TensorFlow's class "background". Return whether the network has that."""
    layer = _layers(model)[-1]
    assert isinstance(layer, nn.Linear)
    if layer.out_features != BACKGROUND:
        return False
    layer.weight = nn.Parameter(layer.weight.detach()[1:].clone())
    layer.bias = nn.Parameter(layer.bias.detach()[1:].clone())
    layer.out_features = BACKGROUND - 1
    model.architecture["args"]["num_classes"] = BACKGROUND - 1  # type: ignore[index, union-attr]
    return True
