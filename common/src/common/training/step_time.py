"""Time a few training steps, to estimate how long a training takes on this machine."""

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.data import ImageSet
from common.layers import to_device
from common.training.loop import MIN_PART, memory_format
from common.training.step import Hooks, Step, make_optimizer
from common.training.train_options import TrainOptions

STEPS, SECONDS = 5, 2.0  # at most
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Speed:
    """What a network costs on this machine.

    Attributes:
        second_per_example: Time of loading an example and of a training step, per example.
        layers: Number of layers with weights.
    """

    second_per_example: float
    layers: int


def measure_speed(
    model: nn.Module,
    train: ImageSet,
    options: TrainOptions,
    device: torch.device | str,
    workers: int = 2,
    hooks: Hooks | None = None,
) -> Speed:
    """Time loading and a training step, per example: the fastest of a few, on a copy of the network.

    Random numbers that are drawn later are the same as without this call.
    """
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = copy.deepcopy(model)
        to_device(network, device, memory_format(network, device)).train()
        plain = replace(options, compile=False, learning_rate=0.0)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        step = Step(network, make_optimizer(network, plain, None, fused=False), scaler, plain, hooks or Hooks(), device)
        size = min(options.batch_size, len(train))
        chosen = train.subset(range(size))
        began = time.perf_counter()
        batch = next(chosen.batches(size, augment=options.augment, device=device, workers=0, min_part=MIN_PART))
        loading = (time.perf_counter() - began) / max(1, workers)
        times: list[float] = []
        while len(times) < STEPS + 1 and sum(times) < SECONDS:  # the first one warms up
            start = time.perf_counter()
            step(batch, 0.0)
            float(step.loss_sum)  # waits for the device
            times.append(time.perf_counter() - start)
    layers = sum(isinstance(module, LAYERS) for module in network.modules())
    return Speed((loading + min(times)) / size, layers)
