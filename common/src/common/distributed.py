"""Data-parallel training under torchrun: ranks, process groups, reductions (NCCL if each process has a GPU, else gloo)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def _group() -> Any:
    """Return torch.distributed if this process is one of several, else None, without importing torch."""
    dist = getattr(sys.modules.get("torch"), "distributed", None)
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def world_size() -> int:
    """Return the number of processes."""
    dist = _group()
    return dist.get_world_size() if dist else 1


def rank() -> int:
    """Return the rank of this process."""
    dist = _group()
    return dist.get_rank() if dist else 0


def is_main() -> bool:
    """Return whether this is the main process, the only one that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group that torchrun describes in the environment, if there is one, and leave it at the end.

    A group that is already joined is used and not left. To use two groups one after the other, open one around both: a
    fast process that opens the second could otherwise connect to the store of the first, which has the same port.
    """
    import torch
    import torch.distributed as dist

    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    nccl = device.type == "cuda" and _local_processes() <= torch.cuda.device_count()
    dist.init_process_group("nccl" if nccl else "gloo", device_id=device if nccl else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _local_processes() -> int:
    """Return the number of processes on this machine. NCCL does not allow two on one GPU; gloo copies through the host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))


def data_parallel(model: nn.Module, device: torch.device, sync_batch_norm: bool = False) -> nn.Module:
    """Wrap a network to average gradients over all processes; return it unchanged if there is only one process."""
    if world_size() == 1:
        return model
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    if sync_batch_norm and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def barrier() -> None:
    """Wait for all processes."""
    dist = _group()
    if dist and dist.get_world_size() > 1:
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    dist = _group()
    if dist and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values
