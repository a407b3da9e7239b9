"""Batch-norm statistics of a network that was cut, measured anew: no labels and no gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def refresh_batch_norm(model: nn.Module, inputs: Iterable[Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """Running means and variances, in place, become the averages over these batches; everything else is left as it was."""
    model.to(device).eval()
    norms = [module for module in model.modules() if isinstance(module, NORMS) and module.track_running_stats]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain average over all batches
        module.train()
    for batch in inputs:
        model(batch.to(device))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return model.eval()
