"""Worker of test_common_training.py, run under torchrun: two processes train, the main one saves the network."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common.data import load_dataset
from common.device import choose_device
from common.distributed import is_main, process_group
from common.models import create_model
from common.testing import split_batches
from common.training import TrainOptions, fit

OPTIONS = TrainOptions(epochs=2, batch_size=50, learning_rate=0.05, momentum=0.0, weight_decay=0.0, schedule="constant")


def training_images():
    return load_dataset("digits").train.subset(torch.arange(125))  # the last batch of 25 splits into 13 and 12


def without_norm() -> nn.Module:
    torch.manual_seed(0)
    return create_model("lenet5", in_channels=3, image_size=32)


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 10)
    )


def train_on_split_batches() -> nn.Module:
    """Forward both halves of each batch separately and average the gradients."""
    model = with_norm().train()
    for epoch in range(OPTIONS.epochs):
        for pair in split_batches(training_images(), 50, epoch):
            model.zero_grad()
            for part in pair:
                (F.cross_entropy(model(part.images), part.labels, reduction="sum") / part.global_size).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= OPTIONS.learning_rate * p.grad
    return model


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with process_group(choose_device("cpu")):
        for name, build in (("without_norm", without_norm), ("with_norm", with_norm)):
            model = build()
            fit(model, training_images(), OPTIONS, seed=1)
            if is_main():
                torch.save(model.state_dict(), folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
