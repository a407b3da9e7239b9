"""Read the layers of a TensorFlow Lite file (a flatbuffer, https://www.tensorflow.org/lite), with the packages ``tflite`` and ``flatbuffers``.

Quantized tensors become float32: scale * (value - zero point), with one scale per tensor or per channel.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.models.same_padding import same_padding

IDENTIFIER = b"TFL3"  # bytes 4 to 7 of a file
FILE_LIMIT = 2**30  # bytes
COUNT_LIMIT = 10_000  # of tensors, operations and buffers
DIMENSION_LIMIT = 2**20
TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1"}  # TensorType
SAME, VALID = 0, 1  # Padding
ACTIVATIONS = {0: "", 1: "relu", 3: "relu6"}  # ActivationFunctionType
PASSED = (
    "QUANTIZE",
    "DEQUANTIZE",
    "RESHAPE",
    "SQUEEZE",
    "SOFTMAX",
)  # neither order nor class of the largest output changes
POOLING = ("AVERAGE_POOL_2D", "MEAN")


class _Kind(NamedTuple):
    kind: str
    options: str  # name of the table


LAYERS = {
    "CONV_2D": _Kind("conv", "Conv2DOptions"),
    "DEPTHWISE_CONV_2D": _Kind("depthwise", "DepthwiseConv2DOptions"),
    "FULLY_CONNECTED": _Kind("conv", "FullyConnectedOptions"),
}


@dataclass(frozen=True)
class Operation:
    """A layer, in the order of execution.

    Attributes:
        kind: "conv" (also a fully connected layer), "depthwise", "add" or "pool".
        inputs: Numbers of the operations whose outputs it reads; -1 for the image.
        weight: (outputs, inputs / groups, height, width).
    """

    kind: str
    inputs: tuple[int, ...]
    stride: int = 1
    activation: str = ""
    weight: Tensor | None = field(default=None, repr=False)
    bias: Tensor | None = field(default=None, repr=False)

    def describe(self) -> str:
        """Return kind, kernel, stride and activation as text, for comparison with a known network."""
        kernel = "" if self.weight is None else f" {self.weight.shape[2]}x{self.weight.shape[3]} / {self.stride}"
        return f"{self.kind}{kernel} {self.activation}".strip()


class TensorflowLite(NamedTuple):
    """Operations of a file, and height and width of the image that it reads."""

    operations: list[Operation]
    image_size: int


def read_tensorflow_lite(path: Path) -> TensorflowLite:
    """Return the operations of a network that reads one square image in color and returns one vector.

    Raises UserError, naming the file, if it is damaged, too large, or has other operations.
    """
    if not 8 <= path.stat().st_size <= FILE_LIMIT:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; a TensorFlow Lite file has 8 to {FILE_LIMIT:,}")
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise UserError(f"{path}: not a TensorFlow Lite file ({IDENTIFIER.decode()} is missing at byte 4)")
    try:
        import tflite
    except ImportError as error:
        raise UserError(
            f"{path}: reading TensorFlow Lite requires the package tflite; run pip install 'compression-papers-common[convert]'"
        ) from error
    try:
        reader = _Reader(path, data, tflite)
        return TensorflowLite(reader.operations(), reader.image_size())
    except (struct.error, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: the TensorFlow Lite file is damaged ({reason}); download it again") from error


class _Reader:
    """The tables of a file. Offsets in it are arbitrary: what they lead to is checked before it is used."""

    def __init__(self, path: Path, data: bytes, tflite: Any) -> None:
        self.path, self.data, self.tflite = path, data, tflite
        self.model = tflite.Model.GetRootAs(data, 0)
        self.unread = len(data)  # bytes of tensors: each byte of the file may be read once
        if self.model.SubgraphsLength() != 1:
            raise ValueError(f"{self.model.SubgraphsLength()} subgraphs instead of 1")
        self.graph = self.model.Subgraphs(0)
        counts = (self.graph.TensorsLength(), self.graph.OperatorsLength(), self.model.BuffersLength())
        if max(*counts, self.model.OperatorCodesLength()) > COUNT_LIMIT:
            raise ValueError(f"{max(counts):,} tensors or operations, more than {COUNT_LIMIT:,}")
        self.names = {number: name for name, number in vars(tflite.BuiltinOperator).items() if type(number) is int}
        self.sources: dict[int, int] = {}  # {number of a tensor: number of the operation that its values come from}
        self.constants: dict[int, int] = {}  # {tensor: tensor in the file that it is a copy of}
        self.pads: dict[int, tuple[tuple[int, int], ...]] = {}  # {tensor: rows and columns of zeros that were added}

    def image_size(self) -> int:
        batch, height, width, channels = self._shape(self.graph.Inputs(0))
        if (batch, channels) != (1, 3) or height != width:
            raise ValueError(f"it reads images of shape {(batch, height, width, channels)}")
        return height

    def operations(self) -> list[Operation]:
        if self.graph.InputsLength() != 1 or self.graph.OutputsLength() != 1:
            raise ValueError("not one input and one output")
        self.sources[self.graph.Inputs(0)] = -1
        found: list[Operation] = []
        for number in range(self.graph.OperatorsLength()):
            self._add(self.graph.Operators(number), found)
        if self.sources.get(self.graph.Outputs(0)) != len(found) - 1:
            raise ValueError("its output is not that of the last operation")
        return found

    def _add(self, operator: Any, found: list[Operation]) -> None:
        """Append an operation, or record that it passes on its input."""
        code = self.model.OperatorCodes(self._index(operator.OpcodeIndex(), self.model.OperatorCodesLength()))
        name = self.names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "an unknown operation")
        inputs = [int(operator.Inputs(i)) for i in range(min(operator.InputsLength(), 4))]
        if operator.OutputsLength() != 1 or not inputs:
            raise ValueError(f"{name} without input, or with {operator.OutputsLength()} outputs")
        output = int(operator.Outputs(0))
        if name == "DEQUANTIZE" and inputs[0] not in self.sources:
            self.constants[output] = inputs[0]
            return
        source = self.sources[inputs[0]]
        if name in PASSED:
            self.sources[output] = source
        elif name == "PAD":
            self.sources[output] = source
            self.pads[output] = tuple(map(tuple, self._values(inputs[1]).reshape(4, 2).tolist()))
        elif name in ("RELU", "RELU6"):
            if source < 0 or found[source].activation:
                raise ValueError(f"{name} does not follow a layer")
            found[source] = replace(found[source], activation=name.lower())
            self.sources[output] = source
        else:
            found.append(self._operation(name, operator, inputs, source, output))
            self.sources[output] = len(found) - 1

    def _operation(self, name: str, operator: Any, inputs: list[int], source: int, output: int) -> Operation:
        if name in POOLING:
            if name == "AVERAGE_POOL_2D" and math.prod(self._shape(output)[1:3]) != 1:
                raise ValueError("an average pooling that is not global")
            return Operation("pool", (source,))
        if name == "ADD":
            options = self._options(operator, "AddOptions")
            return Operation("add", (source, self.sources[inputs[1]]), 1, self._activation(options))
        if name not in LAYERS:
            raise UserError(
                f"{self.path}: {name} is not an operation of the networks that are converted: {', '.join(sorted(LAYERS))}, "
                f"ADD and {', '.join(POOLING)}"
            )
        depthwise, full = name == "DEPTHWISE_CONV_2D", name == "FULLY_CONNECTED"
        options = self._options(operator, LAYERS[name].options)
        weight = self._weights(inputs[1])
        if weight.dim() != (2 if full else 4):
            raise ValueError(f"{name} has weights of shape {tuple(weight.shape)}")
        if full:
            weight = weight[:, :, None, None]
        elif depthwise:  # (1, height, width, channels)
            if weight.shape[0] != 1 or options.DepthMultiplier() not in (0, 1):
                raise ValueError("a depthwise convolution with several filters per channel")
            weight = weight.permute(3, 0, 1, 2)
        else:  # (outputs, height, width, inputs)
            weight = weight.permute(0, 3, 1, 2)
        stride = 1 if full else self._stride(options, inputs[0], weight)
        bias = torch.zeros(len(weight))
        if len(inputs) > 2 and inputs[2] >= 0:
            bias = self._weights(inputs[2])
        if bias.shape != (len(weight),):
            raise ValueError(f"{bias.numel()} biases for {len(weight)} outputs")
        return Operation(
            LAYERS[name].kind,
            (source,),
            stride,
            self._activation(options),
            weight.clone(memory_format=torch.contiguous_format),
            bias,
        )

    def _stride(self, options: Any, image: int, weight: Tensor) -> int:
        """Return the stride of a convolution whose padding is TensorFlow's "SAME", or was made so by PAD. Raises ValueError."""
        stride = options.StrideH()
        if stride != options.StrideW() or not 1 <= stride <= 8:
            raise ValueError(f"strides of {stride} and {options.StrideW()}")
        if max(options.DilationHFactor(), options.DilationWFactor()) > 1:
            raise ValueError("a dilated convolution")
        pads = self.pads.get(image)
        if pads is None and (options.Padding() == SAME or max(weight.shape[2:]) == 1):
            return stride
        if pads is None or options.Padding() != VALID:
            raise ValueError("a convolution without padding, or with two kinds of it")
        sizes = [size - sum(pad) for size, pad in zip(self._shape(image)[1:3], pads[1:3], strict=True)]
        wanted = [same_padding(size, kernel, stride) for size, kernel in zip(sizes, weight.shape[2:], strict=True)]
        if list(pads) != [(0, 0), *wanted, (0, 0)]:
            raise ValueError("a convolution is padded in another way than SAME")
        return stride

    def _activation(self, options: Any) -> str:
        return ACTIVATIONS[options.FusedActivationFunction()]

    def _options(self, operator: Any, name: str) -> Any:
        """Return the table of an operation's options; zeros if there is none."""
        table = operator.BuiltinOptions()
        if table is None or operator.BuiltinOptionsType() != getattr(self.tflite.BuiltinOptions, name):
            raise ValueError(f"an operation without {name}")
        options = getattr(self.tflite, name)()
        options.Init(table.Bytes, table.Pos)
        return options

    def _tensor(self, number: int) -> Any:
        return self.graph.Tensors(self._index(number, self.graph.TensorsLength()))

    def _shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of a tensor. Raises ValueError for dimensions that are not natural numbers below the limit."""
        tensor = self._tensor(number)
        if tensor.ShapeLength() > 4:
            raise ValueError(f"a tensor of {tensor.ShapeLength()} dimensions")
        shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
        if not all(0 < size <= DIMENSION_LIMIT for size in shape):
            raise ValueError(f"a tensor of shape {shape}")
        return shape

    def _values(self, number: int) -> np.ndarray:
        """Return the values of a tensor in the file: float32 for weights, integers if they have no scale. Raises ValueError."""
        number = self.constants.get(number, number)
        tensor, shape = self._tensor(number), self._shape(number)
        dtype = np.dtype(TYPES[tensor.Type()])
        buffer = self.model.Buffers(self._index(tensor.Buffer(), self.model.BuffersLength()))
        size = math.prod(shape) * dtype.itemsize
        if buffer.DataLength() != size:
            raise ValueError(f"{buffer.DataLength()} bytes for a tensor of shape {shape}, which has {size}")
        self.unread -= size
        if self.unread < 0:
            raise ValueError("its tensors are larger than the file")
        values = buffer.DataAsNumpy().view(dtype).reshape(shape)
        quantization = tensor.Quantization()
        if dtype.kind == "f":
            values = values.astype(np.float32)
        elif quantization is not None and quantization.ScaleLength():
            values = self._dequantized(values, quantization)
        return values

    def _weights(self, number: int) -> Tensor:
        values = self._values(number)
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise ValueError("weights without a scale, or that are not finite")
        return torch.from_numpy(values)

    def _dequantized(self, values: np.ndarray, quantization: Any) -> np.ndarray:
        count, axis = quantization.ScaleLength(), quantization.QuantizedDimension()
        if count == 1:
            shape = [1] * values.ndim
        elif 0 <= axis < values.ndim and count == values.shape[axis]:
            shape = [count if dim == axis else 1 for dim in range(values.ndim)]
        else:
            raise ValueError(f"{count} scales for a tensor of shape {values.shape}")
        scales = np.array([quantization.Scale(i) for i in range(count)], dtype=np.float64)
        zeros = [quantization.ZeroPoint(i) for i in range(min(quantization.ZeroPointLength(), count))]
        if len(zeros) not in (0, count) or not (
            np.isfinite(scales).all() and (scales > 0).all() and (scales < 2**64).all()
        ):
            raise ValueError("a scale that is not a positive number, or another number of zero points")
        offsets = np.array(zeros or [0] * count, dtype=np.float64)
        found = (values.astype(np.float64) - offsets.reshape(shape)) * scales.reshape(shape)
        return found.astype(np.float32)

    @staticmethod
    def _index(number: int, count: int) -> int:
        if not 0 <= number < count:
            raise ValueError(f"number {number} of {count}")
        return number


def chain_problem(operations: Sequence[Operation], wanted: Sequence[str]) -> str | None:
    """Return why operations are not those described in ``wanted``, each reading the one before; None if they are.

    An "add" also reads the input of the block: what the operation after the last "add" or block's end read.
    """
    found = [operation.describe() for operation in operations]
    for number, (have, want) in enumerate(zip(found, wanted, strict=False)):
        if have != want:
            return f"operation {number + 1} is {have}, not {want}"
    if len(found) != len(wanted):
        return f"{len(found)} operations instead of {len(wanted)}"
    for number, operation in enumerate(operations):
        block = () if operation.kind != "add" else (number - 4,)
        if sorted(operation.inputs) != sorted((*block, number - 1)):
            return f"operation {number + 1} ({operation.kind}) reads operations {operation.inputs}"
    return None
