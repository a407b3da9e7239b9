"""Break a result down by class (accuracy and agreement) and by layer (width)."""

import torch
from torch import Tensor, nn

from common.channels.resize import WEIGHTED, width


def per_class(labels: Tensor, predictions: Tensor, reference: Tensor, classes: int) -> dict[str, list[float]]:
    """Compute percentages per class.

    Args:
        labels: True classes, shape (N,), int64.
        predictions: Predicted classes of the compressed network, shape (N,), int64.
        reference: Predicted classes of the dense network, shape (N,), int64.
        classes: Number of classes.

    Returns:
        ``top1`` of the predictions, ``dense_top1`` of the reference, and the ``agreement`` of both; 0 for a class without
        examples.
    """
    count = torch.bincount(labels, minlength=classes).clamp(min=1).double()

    def percent(hits: Tensor) -> list[float]:
        hit = torch.bincount(labels[hits], minlength=classes).double()
        return [round(float(v), 4) for v in 100 * hit / count]

    return {
        "top1": percent(predictions == labels),
        "dense_top1": percent(reference == labels),
        "agreement": percent(predictions == reference),
    }


def layer_widths(model: nn.Module, dense: nn.Module) -> dict[str, list[int]]:
    """Return {layer: [width, width in the dense network]}; for a replaced layer, the width of its narrowest part."""
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
