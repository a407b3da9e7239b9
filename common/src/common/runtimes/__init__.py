"""Runtimes: the ways to run a network on the CPU that ``latency`` compares. Nothing is imported before a runtime is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from torch import nn


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
    "torch": Runtime(),
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


__all__ = ["RUNTIMES", "Runtime", "check_runtime", "network_in"]
