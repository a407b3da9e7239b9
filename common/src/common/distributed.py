"""Several processes under torchrun: who am I, and data-parallel training (NCCL with a GPU for each, else gloo)."""

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
    """torch.distributed if this process is one of several, else None; asking for it does not import torch."""
    dist = getattr(sys.modules.get("torch"), "distributed", None)
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def world_size() -> int:
    dist = _group()
    return dist.get_world_size() if dist else 1


def rank() -> int:
    dist = _group()
    return dist.get_rank() if dist else 0


def is_main() -> bool:
    """Only the main process writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun describes in the environment, if it does; leave it at the end. One already joined stays.

    A second group in the same processes wants one that was opened around both: after the first one's end, a process
    that is quick would meet its old store at the same port.
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
    """Processes on this machine. NCCL refuses two on one GPU; gloo, which copies through the host, does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))


def data_parallel(model: nn.Module, device: torch.device, sync_batch_norm: bool = False) -> nn.Module:
    """The network whose gradients are averaged over all processes; the network itself if there is only one."""
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
    """The sum of every process's tensor; the tensor itself if there is only one process."""
    dist = _group()
    if dist and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values
