"""Make a network smaller in the middle of its training, and continue with the same optimizer and schedule.

Run ``python examples/compress_while_training.py``: 8 by 8 pixels, seconds. The two lines that make the difference are marked.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from common import compress


def network() -> nn.Sequential:
    first = nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
    second = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, examples: DataLoader) -> None:
    for images, labels in examples:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def main(epochs: int = 6, compress_at: int = 3, **options) -> nn.Module:
    """Train, and compress before the epoch ``compress_at``. options: of ``compress``."""
    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target))
    train, test = random_split(data, [0.8, 0.2])
    examples = DataLoader(train, batch_size=64, shuffle=True)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        model.train()
        if epoch == compress_at:
            small, report = compress(model, train, test=test, target_macs=0.5, **options)  # <- a smaller network
            report.transfer_optimizer(optimizer, model, small)  # <- which the optimizer trains from now on
            model = small.train()
            print(report)
        train_epoch(model, optimizer, examples)
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, 64))
        print(
            f"epoch {epoch + 1}: top-1 {100 * right / len(test):.2f} %, learning rate {schedule.get_last_lr()[0]:.3f}"
        )
    return model


if __name__ == "__main__":
    main()
