"""What a row says beside top-1: accuracy and agreement of each class, and the width of each layer."""

import torch
from torch import Tensor, nn

from common.channels.resize import WEIGHTED, width


def per_class(labels: Tensor, decisions: Tensor, reference: Tensor, classes: int) -> dict[str, list[float]]:
    """Percent by class: top1 of ``decisions``, dense_top1 of ``reference``, agreement of both. All inputs (N,) int64.

    A class without an example has 0 everywhere.
    """
    count = torch.bincount(labels, minlength=classes).clamp(min=1).double()

    def percent(hits: Tensor) -> list[float]:
        hit = torch.bincount(labels[hits], minlength=classes).double()
        return [round(float(v), 4) for v in 100 * hit / count]

    return {
        "top1": percent(decisions == labels),
        "dense_top1": percent(reference == labels),
        "agreement": percent(decisions == reference),
    }


def widths(model: nn.Module, dense: nn.Module) -> dict[str, list[int]]:
    """{layer: [width now, width of the dense network]}; of a layer that was replaced, the narrowest part counts."""
    found = {}
    for name, module in dense.named_modules():
        if not isinstance(module, WEIGHTED):
            continue
        parts = [part for part in _submodule(model, name).modules() if isinstance(part, WEIGHTED)]
        if parts:
            found[name] = [min(width(part, "out") for part in parts), width(module, "out")]
    return found


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return nn.Identity()
