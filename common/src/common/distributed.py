"""Several processes under torchrun: who am I, and data-parallel training (NCCL with a GPU for each, else gloo)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Only the main process writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun describes in the environment, if it does; leave it at the end. One already joined stays.

    A second group in the same processes wants one that was opened around both: after the first one's end, a process
    that is quick would meet its old store at the same port.
    """
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
    if sync_batch_norm and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of every process's tensor; the tensor itself if there is only one process."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values
