"""VGG-16 for 32x32 images: 13 convolutions with batch norm and a 512-512-classes head, as in DECORE and HRank."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.resnet_cifar import init_weights

POOL = "pool"
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)


class CifarVGG(nn.Module):
    """VGG; ``features.conv{i}`` is entry i of ``config``. (N, in_channels, 32, 32) -> (N, num_classes)."""

    def __init__(
        self,
        config: tuple[int | str, ...] = VGG16,
        num_classes: int = 10,
        conv_bias: bool = True,
        in_channels: int = 3,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i, width in enumerate(config):
            if isinstance(width, str):
                layers[f"pool{i}"] = nn.MaxPool2d(2)
                continue
            layers[f"conv{i}"] = nn.Conv2d(channels, width, 3, padding=1, bias=conv_bias)
            layers[f"norm{i}"] = nn.BatchNorm2d(width)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            channels = width
        self.features = nn.Sequential(layers)
        head = [
            ("linear1", nn.Linear(channels, hidden)),
            ("norm", nn.BatchNorm1d(hidden)),
            ("relu", nn.ReLU(inplace=True)),
            ("linear2", nn.Linear(hidden, num_classes)),
        ]
        self.classifier = nn.Sequential(OrderedDict(head))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))
