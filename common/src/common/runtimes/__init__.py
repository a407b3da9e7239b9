"""Runtimes: the ways to run a network on the CPU that ``latency`` compares. Nothing is imported before a runtime is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

TORCH = "torch"


@dataclass(frozen=True)
class Runtime:
    """A way to run networks.

    Attributes:
        requires: Packages of the extra that the runtime needs.
        extra: Extra of common that installs them.
        reads_onnx: Whether it can run a network of an ONNX file (:class:`common.runtimes.onnx_file.OnnxNetwork`).
    """

    requires: tuple[str, ...] = ()
    extra: str = ""
    reads_onnx: bool = False


RUNTIMES = {
    TORCH: Runtime(),
    "compile": Runtime(),
    "onnxruntime": Runtime(("onnx", "onnxruntime"), "export", reads_onnx=True),
    "openvino": Runtime(("onnx", "onnxruntime", "openvino"), "openvino", reads_onnx=True),
}


def check_runtime(name: str) -> None:
    """Raise UserError, naming the extra to install, if a package of a runtime is missing."""
    runtime = RUNTIMES[name]
    missing = next((package for package in runtime.requires if find_spec(package) is None), None)
    if missing:
        raise UserError(
            f"runtime {name}: the package {missing} is not installed; in the checkout, pip install -e './common[{runtime.extra}]'"
        )


def network_in(name: str, model: nn.Module, input_shape: Sequence[int]) -> nn.Module | None:
    """Return a network that computes the same in a runtime, with torch's number of threads; None if the runtime cannot run it.

    Args:
        model: A network in eval mode on the CPU, or one of an ONNX file.
        input_shape: Shape of one example.

    Raises:
        UserError: If a package is missing, or the network cannot be exported.
    """
    from common.runtimes.onnx_file import OnnxNetwork

    check_runtime(name)
    if isinstance(model, OnnxNetwork) and not RUNTIMES[name].reads_onnx:
        return None
    return import_module("common.runtimes.networks").NETWORKS[name](model, input_shape)


def in_runtime(name: str, model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return a PyTorch network in a runtime, as :func:`network_in`, which is never None for these."""
    found = network_in(name, model, input_shape)
    assert found is not None
    return found


def layer_in(name: str, layer: nn.Conv2d | nn.Linear, example: Tensor) -> tuple[nn.Module, int]:
    """Return single convolutions or linear layers like this one in a runtime that reads ONNX files, and how many one call runs.

    In PyTorch, it is the layer itself.

    Args:
        layer: In eval mode on the CPU.
        example: A batch that it reads.
    """
    if name == TORCH:
        return layer, 1
    from common.runtimes.single_layer import layer_bytes

    content, copies = layer_bytes(layer, example.shape)
    return import_module("common.runtimes.networks").FROM_ONNX[name](content), copies


def runtime_version(name: str) -> str:
    """Return the version of a runtime's package."""
    return version("torch" if not RUNTIMES[name].requires else RUNTIMES[name].requires[-1])


__all__ = ["RUNTIMES", "TORCH", "Runtime", "check_runtime", "in_runtime", "layer_in", "network_in", "runtime_version"]
