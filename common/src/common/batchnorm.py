"""Recalibrate the batch-norm statistics of a pruned network, without labels and gradients."""

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from common.device import exact_float32

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, inputs: Iterable[Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """Set running means and variances to their averages over these batches, in place; weights do not change.

    Args:
        inputs: Batches (N, C, H, W), without labels.
        device: Where the network is moved and computed.

    Returns:
        The same network, in eval mode.
    """
    model.to(device).eval()
    layers = [module for module in model.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    momenta = [module.momentum for module in layers]
    handles = [module.register_forward_pre_hook(_cumulative_average_hook()) for module in layers]
    for module in layers:
        module.reset_running_stats()
        module.train()
    with exact_float32():
        for batch in inputs:
            model(batch.to(device))
    for module, momentum, handle in zip(layers, momenta, handles, strict=True):
        module.momentum = momentum
        handle.remove()
    return model.eval()


def _cumulative_average_hook():
    """Build a hook that weights the i-th call by 1 / i; ``momentum=None`` would read its counter from the device."""
    calls = 0

    def hook(module: BatchNorm, _) -> None:
        nonlocal calls
        calls += 1
        module.momentum = 1.0 / calls

    return hook
