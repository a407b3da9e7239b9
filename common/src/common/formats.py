"""Load networks from all file formats of the installed packages.

A package adds a format by an entry point of the group ``compression_papers.formats``: a function ``(path, factory) ->
nn.Module | None`` that returns None for a file of another format and raises UserError for a damaged file.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from torch import nn

from common.checkpoint import load_model
from common.errors import UserError

GROUP = "compression_papers.formats"


def load_network(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Load a network, in eval mode, from a checkpoint, an ONNX file or a file in an installed package's format. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    if Path(path).suffix == ".onnx":
        from common.runtimes.onnx_file import read_onnx  # onnx and ONNX Runtime begin here

        return read_onnx(Path(path))
    for point in entry_points(group=GROUP):
        model = point.load()(Path(path), factory)
        if model is not None:
            return model
    return load_model(path, factory)
