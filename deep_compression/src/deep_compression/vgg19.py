"""VGG19 with batch norm and the 512-4096-4096 head of emedinac/DeepCompression (38,958,922 trainable parameters)."""

from __future__ import annotations

from torch import Tensor, nn

from common.models import register
from common.models.arguments import IMAGE_ARGUMENTS, PROBABILITY, WIDTH

WIDTHS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")


class VGG19(nn.Module):
    """Blocks of convolution (with bias), batch norm, ReLU and dropout; three linear layers with dropout but without ReLU.

    Maps images (N, in_channels, 32, 32) to logits (N, num_classes).

    Args:
        dropout: Probability of both kinds of dropout.
        head: Width of the hidden linear layers.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.2, head: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout2d(dropout),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512, head),
            nn.Dropout(dropout),
            nn.Linear(head, head),
            nn.Dropout(dropout),
            nn.Linear(head, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


register("vgg19", VGG19, (3, 32, 32), {**IMAGE_ARGUMENTS, "dropout": PROBABILITY, "head": WIDTH})
