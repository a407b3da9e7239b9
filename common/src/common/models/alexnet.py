"""AlexNet (Krizhevsky et al. 2012) in Caffe's form, which the Deep Compression paper prunes: 60,965,224 parameters.

torchvision's ``alexnet`` is another network, without groups and with fewer channels. Response normalization mixes neighboring
channels, so :mod:`common.channels` does not prune the channels of conv1 and conv2.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions, three of them in two groups, and three linear layers. (N, in_channels, 224, 224) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 96, 11, stride=4, padding=2)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.response_norm1 = nn.LocalResponseNorm(5)  # as in Caffe: alpha 1e-4, beta 0.75, and k 1 (the paper: 2)
        self.response_norm2 = nn.LocalResponseNorm(5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.response_norm1(F.relu(self.conv1(x))), 3, stride=2)
        x = F.max_pool2d(self.response_norm2(F.relu(self.conv2(x))), 3, stride=2)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, stride=2)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        return self.fc8(self.dropout(F.relu(self.fc7(x))))
