"""Batch-norm statistics of a network that was cut, measured anew: no labels and no gradient."""

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from common.device import exact_float32

Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, inputs: Iterable[Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """Running means and variances, in place, become the averages over these batches; everything else is left as it was."""
    model.to(device).eval()
    norms = [module for module in model.modules() if isinstance(module, Norm) and module.track_running_stats]
    momenta = [module.momentum for module in norms]
    handles = [module.register_forward_pre_hook(_plain_average()) for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.train()
    with exact_float32():
        for batch in inputs:
            model(batch.to(device))
    for module, momentum, handle in zip(norms, momenta, handles, strict=True):
        module.momentum = momentum
        handle.remove()
    return model.eval()


def _plain_average():
    """A hook that gives the i-th call weight 1 / i, as ``momentum=None`` does, which reads its counter from the device."""
    calls = 0

    def hook(module: Norm, _) -> None:
        nonlocal calls
        calls += 1
        module.momentum = 1.0 / calls

    return hook
