"""Single training steps as in `common.training.fit`, and a check that the host does not wait for the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.data import Batch
from common.layers import to_device
from common.training.step import Hooks, Step, make_optimizer
from common.training.train_options import TrainOptions


def step_and_batch(
    model: nn.Module, hooks: Hooks, device: torch.device, examples: int = 16, *, fused: bool = False
) -> tuple[Step, Batch]:
    """Return the training step of a network on the device, and a batch of random images (N, 3, 32, 32)."""
    options = TrainOptions()
    to_device(model, device).train()
    optimizer = make_optimizer(model, options, hooks.decays, fused=fused)
    step = Step(model, optimizer, torch.amp.GradScaler(device.type, enabled=False), options, hooks, device)
    images = torch.randn(examples, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(examples, device=device) % 10
    if hooks.before_epoch:
        hooks.before_epoch(0)
    return step, Batch(images, labels, torch.arange(examples, device=device), examples)


@contextmanager
def forbid_synchronization() -> Iterator[None]:
    """Raise RuntimeError when the host waits for the GPU (context manager)."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run_training_steps(
    model: nn.Module, hooks: Hooks, device: torch.device, steps: int = 20, rate: float = 0.01
) -> None:
    """Train on one random batch and check that the host does not wait after the first five steps."""
    step, batch = step_and_batch(model, hooks, device, fused=device.type == "cuda")
    for _ in range(5):
        step(batch, rate)
    with forbid_synchronization():
        for _ in range(steps - 5):
            step(batch, rate)
