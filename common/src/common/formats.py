"""Networks in files of other formats than our checkpoints: packages that write one say so by an entry point.

Group ``compression_papers.formats``: a function ``(path, factory) -> nn.Module | None`` that returns None for a file that is
not of its format, and raises UserError for one that is but is damaged.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from torch import nn

from common.checkpoint import load_model
from common.errors import UserError

GROUP = "compression_papers.formats"


def load_network(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The network, in eval mode, of a checkpoint or of any format that an installed package reads. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    for point in entry_points(group=GROUP):
        model = point.load()(Path(path), factory)
        if model is not None:
            return model
    return load_model(path, factory)
