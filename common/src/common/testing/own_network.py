"""Compress networks of the user's own with one method, as ``from common import compress`` does."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from common import CompressionReport, compress

CLASSES, SIZE = 3, 16


class OwnNetwork(nn.Module):
    """A convolutional network that no registry knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 40, 3, 2, 1), nn.BatchNorm2d(40), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(40, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.last = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)).mean((2, 3)))


def own_network() -> nn.Module:
    """Return a convolutional network with random weights."""
    torch.manual_seed(0)
    return OwnNetwork().eval()


def vision_transformer() -> nn.Module:
    """Return a vision transformer with random weights: two blocks of four heads."""
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(SIZE, 8, 2, 4, 24, 40, num_classes=CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():  # the head and the class token are zero before training
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def compress_own(model: nn.Module, method: str, **options: Any) -> CompressionReport:
    """Compress a network of (3, 16, 16) images with 60 random examples, and check that it is the report's file.

    options: of :func:`common.compress`. The labels are those that the network predicts, relative to its mean output.
    """
    images = torch.randn(60, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model(images)
        labels = (scores - scores.mean(0)).argmax(1)
    small, report = compress(model, (images, labels), method, latency=False, **options)
    axis = "macs" if "target_macs" in options else "bytes"
    dense, compressed = report.metrics["baseline"][axis], report.metrics["compressed"][axis]
    assert compressed <= options[f"target_{axis}"] * dense
    assert report.file.stat().st_size == report.metrics["compressed"]["bytes"]
    assert small(images).shape == (60, CLASSES)
    return report
