"""Worker of test_common_cuda.py: two processes train under torchrun and the main one saves, or one process counts steps.

cuda_worker.py fit DEVICE FILE | cuda_worker.py count DEVICE SECONDS
"""

import sys
import time

import torch

from common.data import load_dataset
from common.device import choose_device
from common.distributed import is_main, process_group
from common.models import create_model
from common.testing.steps import step_and_batch
from common.training import Hooks, TrainOptions, fit

OPTIONS = TrainOptions(epochs=2, batch_size=50, learning_rate=0.05, weight_decay=0.0, schedule="constant")


def train(device: torch.device):
    """Train a network without batch norm; the result is the same for any number of processes."""
    torch.manual_seed(0)
    model = create_model("lenet5", in_channels=3, image_size=32)
    return model, fit(model, load_dataset("digits").train.subset(torch.arange(200)), OPTIONS, device=device, seed=1)


def main(task: str, name: str, last: str) -> None:
    device = choose_device(name)
    if task == "fit":
        with process_group(device):
            model, rows = train(device)
            if is_main():
                torch.save({"rows": rows, "backend": backend(), "state": model.cpu().state_dict()}, last)
        return
    step, batch = step_and_batch(create_model("resnet20"), Hooks(), device)
    end, steps = time.monotonic() + float(last), 0
    while time.monotonic() < end:
        step(batch, 0.01)
        steps += 1
    print(f"{steps} steps, loss {float(step.loss_sum) / steps:.4f}")


def backend() -> str | None:
    return torch.distributed.get_backend() if torch.distributed.is_initialized() else None


if __name__ == "__main__":
    main(*sys.argv[1:])
