"""Networks in each runtime: modules with the same inputs and outputs, which :func:`common.measure.measure_latency` times."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.export import export_network
from common.runtimes.onnx_file import OnnxNetwork, parse_onnx

EXAMPLES = 3  # random inputs with which an export is checked


def in_torch(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the network itself: PyTorch in eager mode, with all its layers."""
    return model


def in_compile(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the network compiled by ``torch.compile``, once for each batch size."""
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def in_onnxruntime(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the exported network, run by ONNX Runtime."""
    return (
        model if isinstance(model, OnnxNetwork) else parse_onnx(onnx_bytes(model, input_shape), "the exported network")
    )


def in_openvino(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the exported network, run by OpenVINO."""
    return OpenvinoNetwork(model.content if isinstance(model, OnnxNetwork) else onnx_bytes(model, input_shape))


def onnx_bytes(model: nn.Module, input_shape: Sequence[int]) -> bytes:
    """Export a network and return the file. Raises UserError if it cannot be exported, or its outputs differ."""
    inputs = torch.randn(EXAMPLES, *input_shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_network(model, inputs, file, "onnx")
        return file.read_bytes()


class OpenvinoNetwork(nn.Module):
    """A network of an ONNX file, run by OpenVINO on the CPU with torch's number of threads."""

    memory_format = torch.contiguous_format

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        self._compiled: dict[tuple[int, ...], Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (N, classes) of images (N, C, H, W)."""
        batch = images.detach().cpu().contiguous().numpy()
        key = (torch.get_num_threads(), *batch.shape)
        if key not in self._compiled:
            self._compiled[key] = self._compile(batch.shape)
        return torch.from_numpy(np.array(next(iter(self._compiled[key]([batch]).values()))))

    def _compile(self, shape: Sequence[int]) -> Any:
        import openvino

        core = openvino.Core()
        network = core.read_model(self.content, b"")
        network.reshape(list(shape))
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        return core.compile_model(network, "CPU", threads | {"INFERENCE_PRECISION_HINT": "f32"})


NETWORKS: Mapping[str, Callable[[nn.Module, Sequence[int]], nn.Module]] = {
    "torch": in_torch,
    "compile": in_compile,
    "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
}
FROM_ONNX: Mapping[str, Callable[[bytes], nn.Module]] = {
    "onnxruntime": partial(parse_onnx, path="the layer"),
    "openvino": OpenvinoNetwork,
}
